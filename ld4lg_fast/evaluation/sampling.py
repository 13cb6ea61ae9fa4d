"""Samples for the evaluation, distributed over the processes; all decodings share the latents.

A sample depends only on the seed and its number, not on the number of processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import PartialState

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.distributed import gathered, share
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import progress_bar


@dataclass(frozen=True)
class Conditions:
    """Conditions of the samples: classes, source texts, prompts, values of guides, or none.

    ``scored``: whether to compute scores.
    """

    num_samples: int
    class_ids: list[int] | None = None
    sources: list[str] | None = None
    scored: bool = False
    prompts: list[str] | None = None
    max_new_tokens: int | None = None
    guides: dict[str, list] | None = None


@dataclass(frozen=True)
class Sampled:
    """Texts by decoding, in the order of the samples, and their scores if requested: mean log-probabilities under the
    decoder (`LatentOperations.confidences`)."""

    texts: dict[str, list[str]]
    scores: dict[str, list[float]]


def sample_texts(
    pipe: TextDiffusionPipeline,
    conditions: Conditions,
    decodings: Mapping[str, DecodingConfig],
    options: Mapping,
    seed: int,
    processes: PartialState,
) -> Sampled | None:
    """The samples; None in all but the main process.

    Args:
        options: of `TextDiffusionPipeline.sample` (sampler, steps, guidance).
    """
    ids = share(conditions.num_samples, processes)
    mine = _texts_of(pipe, ids, conditions, decodings, options, seed) if ids else []
    rows = gathered(ids, mine, processes)
    if rows is None:
        return None
    columns = [list(column) for column in zip(*rows, strict=True)]
    count = len(decodings)
    texts, scores = (dict(zip(decodings, part, strict=False)) for part in (columns[:count], columns[count:]))
    return Sampled(texts, scores)


def _texts_of(
    pipe: TextDiffusionPipeline,
    ids: Sequence[int],
    conditions: Conditions,
    decodings: Mapping[str, DecodingConfig],
    options: Mapping,
    seed: int,
) -> list[tuple]:
    """Texts of each sample, one per decoding, followed by their scores if requested."""
    chosen = torch.tensor(ids)
    common: dict[str, Any] = {"seed": seed, "batch_size": options["batch_size"], "sample_ids": chosen}
    given: dict[str, Any] = {}
    if conditions.class_ids is not None:
        given["class_id"] = torch.tensor(conditions.class_ids)[chosen]
    if conditions.sources is not None:
        given["source"] = [conditions.sources[i] for i in ids]
    if conditions.guides is not None:
        given["guides"] = {name: [values[i] for i in ids] for name, values in conditions.guides.items()}
    with progress_bar() as bar:
        tasks = {}

        def report(name: str) -> Callable[[str, int, int], None]:
            def progress(phase: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(f"seed {seed}, {name}", total=total)
                bar.update(tasks[name], completed=done)

            return progress

        if conditions.prompts is not None:
            given |= {
                "prompt": [conditions.prompts[i] for i in ids],
                "max_new_tokens": conditions.max_new_tokens,
            }
            columns = [
                pipe(decoding=decoding, **dict(options) | common | given, progress=report(name)).texts
                for name, decoding in decodings.items()
            ]
            return list(zip(*columns, strict=True))
        sampled = pipe.sample(len(ids), **dict(options) | common | given, progress=report("denoising"))
        columns = [
            pipe.decode(sampled.latents, decoding, mask=sampled.mask, **common, progress=report(name))
            for name, decoding in decodings.items()
        ]
    if conditions.scored:
        columns += [pipe.confidences(sampled.latents, texts, sampled.mask).tolist() for texts in columns]
    return list(zip(*columns, strict=True))
