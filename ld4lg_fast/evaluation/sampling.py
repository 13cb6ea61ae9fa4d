"""The samples that are measured: shared out over the processes, one set of latents for all decodings.

A sample depends on the seed and its number alone, so the number of processes changes nothing.
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
    """What each sample is sampled under, a class or a source text, or nothing; ``scored``: scores are wanted."""

    num_samples: int
    class_ids: list[int] | None = None
    sources: list[str] | None = None
    scored: bool = False


@dataclass(frozen=True)
class Sampled:
    """By the name of each decoding its texts, in the order of the samples, and where they were asked for the scores:
    how sure the decoder is of each text (`LatentOperations.confidences`)."""

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
    """The samples; None but in the main process.

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
    """Each sample's texts, one a decoding, and then as many scores where they are wanted."""
    chosen = torch.tensor(ids)
    common: dict[str, Any] = {"seed": seed, "batch_size": options["batch_size"], "sample_ids": chosen}
    given: dict[str, Any] = {}
    if conditions.class_ids is not None:
        given["class_id"] = torch.tensor(conditions.class_ids)[chosen]
    if conditions.sources is not None:
        given["source"] = [conditions.sources[i] for i in ids]
    with progress_bar() as bar:
        tasks = {}

        def report(name: str) -> Callable[[str, int, int], None]:
            def progress(phase: str, done: int, total: int) -> None:
                if name not in tasks:
                    tasks[name] = bar.add_task(f"seed {seed}, {name}", total=total)
                bar.update(tasks[name], completed=done)

            return progress

        sampled = pipe.sample(len(ids), **dict(options) | common | given, progress=report("denoising"))
        columns = [
            pipe.decode(sampled.latents, decoding, mask=sampled.mask, **common, progress=report(name))
            for name, decoding in decodings.items()
        ]
    if conditions.scored:
        columns += [pipe.confidences(sampled.latents, texts, sampled.mask).tolist() for texts in columns]
    return list(zip(*columns, strict=True))
