"""What a precision costs on a trained model: how far latents move from fp32, and how many tokens change.

python benchmarks/precision_drift.py [RUN_DIR] [--precisions int8 ...] [--num-samples N] [--quality balanced]
    [--json FILE]

All samples start from the same noise. ``drift`` is the root mean square of the difference over that of the fp32
latents; ``tokens_changed`` the share of greedily decoded tokens that differ; ``texts_changed`` that of whole texts.
The denoiser and the decoder are changed apart and together.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from decode_throughput import agreement
from harness import (
    add_device,
    add_precisions,
    available_precisions,
    chosen_device,
    describe_device,
    versions,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.precision import PRECISIONS
from ld4lg_fast.pipeline.pipeline import SampledLatents


def tokens(pipe: TextDiffusionPipeline, sampled: SampledLatents, precision: str) -> Tensor:
    """Greedy tokens (num_samples, length), -1 beyond a text's end."""
    decoding = DecodingConfig("greedy", precision=precision)
    rows = pipe.autoencoder.generate(sampled.latents, decoding, mask=sampled.mask)
    return pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)


def drift_rows(
    pipe: TextDiffusionPipeline, precisions: Iterable[str], num_samples: int, quality: str
) -> list[dict]:
    """Three rows a precision: of the denoiser alone, the decoder alone, and both."""

    def sample(precision: str) -> SampledLatents:
        return pipe.sample(num_samples, quality=quality, precision=precision)

    exact = sample("fp32")
    wanted = tokens(pipe, exact, "fp32")
    rows = []
    for precision in precisions:
        near = sample(precision)
        real = slice(None) if exact.mask is None else exact.mask
        difference = (near.latents - exact.latents)[real]
        drift = (difference.square().mean() / exact.latents[real].square().mean()).sqrt().item()
        for part, sampled, decoder in (
            ("denoiser", near, "fp32"),
            ("decoder", exact, precision),
            ("both", near, precision),
        ):
            found = tokens(pipe, sampled, decoder)
            width = max(found.shape[1], wanted.shape[1])
            one, other = (
                torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=-1) for ids in (found, wanted)
            )
            rows.append(
                {
                    "precision": precision,
                    "part": part,
                    "drift": 0.0 if sampled is exact else drift,
                    "tokens_changed": 1 - agreement(found, wanted),
                    "texts_changed": (one != other).any(dim=1).float().mean().item(),
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, nargs="?", help="a finished run; default: the model that ships")
    add_device(parser)
    add_precisions(parser, PRECISIONS, "default: all that the device multiplies in by itself, but fp32")
    parser.add_argument("--num-samples", type=int, default=256)
    parser.add_argument("--quality", default="balanced")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    pipe = TextDiffusionPipeline.from_pretrained(options.run_dir).to(device)
    precisions = options.precisions or [name for name in available_precisions(device) if name != "fp32"]
    name = options.run_dir.name if options.run_dir else "the model that ships"
    rows = drift_rows(pipe, precisions, options.num_samples, options.quality)
    table = Table(title=f"{options.num_samples} samples of {name}, {options.quality}")
    for column in rows[0]:
        table.add_column(column.replace("_", " "))
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else value for value in row.values()))
    Console().print(table)
    if options.json:
        result = {
            "run": name,
            "num_samples": options.num_samples,
            "quality": options.quality,
            "rows": rows,
            "device": describe_device(device),
            "versions": versions(),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(options.json)


if __name__ == "__main__":
    main()
