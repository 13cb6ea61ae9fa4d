"""The samples that are measured: shared out over the processes, one set of latents for all decodings.

A sample depends on the seed and its number alone, so the number of processes changes nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from ld4lg_fast.console import progress_bar
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.pipeline import TextDiffusionPipeline


@dataclass(frozen=True)
class Conditions:
    """What each sample is sampled under: a class or a source text, or nothing."""

    num_samples: int
    class_ids: list[int] | None = None
    sources: list[str] | None = None


def sample_texts(
    pipe: TextDiffusionPipeline,
    conditions: Conditions,
    decodings: Mapping[str, DecodingConfig],
    options: Mapping,
    seed: int,
    processes: PartialState,
) -> dict[str, list[str]] | None:
    """The texts of each decoding by its name, in the order of the samples; None but in the main process.

    Args:
        options: of `TextDiffusionPipeline.sample` (sampler, steps, guidance).
    """
    ids = list(range(processes.process_index, conditions.num_samples, processes.num_processes))
    mine = _texts_of(pipe, ids, conditions, decodings, options, seed) if ids else []
    rows = gather_object(mine) if processes.num_processes > 1 else mine
    if not processes.is_main_process:
        return None
    rows = sorted(rows)
    return {name: [texts[column] for _, texts in rows] for column, name in enumerate(decodings)}


def _texts_of(
    pipe: TextDiffusionPipeline,
    ids: Sequence[int],
    conditions: Conditions,
    decodings: Mapping[str, DecodingConfig],
    options: Mapping,
    seed: int,
) -> list[tuple[int, list[str]]]:
    """Pairs of a sample's number and its texts, one a decoding."""
    chosen = torch.tensor(ids)
    common = {"seed": seed, "batch_size": options["batch_size"], "sample_ids": chosen}
    given = {}
    if conditions.class_ids is not None:
        given["class_id"] = torch.tensor(conditions.class_ids)[chosen]
    if conditions.sources is not None:
        given["source"] = [conditions.sources[i] for i in ids]
    with progress_bar() as bar:
        tasks = {}

        def report(name: str):
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
    return list(zip(ids, map(list, zip(*columns, strict=True)), strict=True))
