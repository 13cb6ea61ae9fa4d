"""What a sample owes to the others of its batch, what deterministic mode costs, and what noise costs.

python benchmarks/batch_invariance.py [RUN_DIR] [--num-samples N] [--batch-sizes 1 64] [--rounds N] [--json FILE]

Each precision has a row without the mode and one with it. ``moved`` is the largest difference between latents that are
sampled alone and in one batch, over the largest latent; ``texts_changed`` the share of greedily decoded texts that
differ. Both are of the preset ``draft``. ``ms_per_sample`` is from noise to text, by batch sizes. The noise is that of
`ops.sampler_step` in a step of ``ddpm``, by numbers of steps, beside a step with one random stream and one without
noise; ``network_ms`` is the denoiser's time in the same step. CPU only, as the mode is.
"""

import argparse
import json
from functools import partial
from pathlib import Path

import torch
from harness import available_precisions, describe_device, interleaved, versions
from rich.console import Console
from rich.table import Table

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export.runtime.brownian import step_noise
from ld4lg_fast.kernels import ops

PRECISIONS = ("fp32", "bf16", "int8")
NOISE_STEPS = (25, 50, 250)


def write(pipe: TextDiffusionPipeline, count: int, precision: str, batch_size: int) -> object:
    """Latents and texts of ``count`` samples."""
    sampled = pipe.sample(count, quality="draft", precision=precision, batch_size=batch_size, seed=1)
    decoding = DecodingConfig("greedy", precision=precision)
    texts = pipe.decode(sampled.latents, decoding, mask=sampled.mask, batch_size=batch_size)
    return sampled.latents, texts


def mode_rows(
    pipe: TextDiffusionPipeline, precisions: list[str], count: int, batches: list[int], rounds: int
) -> list[dict]:
    """Two rows a precision: without deterministic mode and with it."""
    ways = {(precision, mode): {} for precision in precisions for mode in (False, True)}
    runs = {}
    for precision, mode in ways:
        for batch in batches:

            def run(precision: str = precision, mode: bool = mode, batch: int = batch) -> object:
                pipe.set_deterministic(mode)
                return write(pipe, count if batch > 1 else max(1, count // 16), precision, batch)

            runs[f"{precision} {mode} {batch}"] = run
    timings = interleaved(runs, rounds=rounds, round_seconds=0)
    rows = []
    for precision, mode in ways:
        pipe.set_deterministic(mode)
        whole, texts = write(pipe, count, precision, count)
        alone, texts_alone = write(pipe, count, precision, 1)
        changed = sum(one != other for one, other in zip(texts, texts_alone, strict=True)) / count
        row = {
            "precision": precision,
            "deterministic": mode,
            "moved": ((alone - whole).abs().max() / whole.abs().max()).item(),
            "texts_changed": changed,
            "ms_per_sample": {},
        }
        for batch in batches:
            timing = timings[f"{precision} {mode} {batch}"]
            made = count if batch > 1 else max(1, count // 16)
            shares = (timing.median, timing.p20, timing.p80)
            row["ms_per_sample"][batch] = dict(
                zip(("median", "p20", "p80"), (1e3 * each / made for each in shares), strict=True)
            )
        rows.append(row)
    return rows


def noise_rows(pipe: TextDiffusionPipeline, batch: int, rounds: int) -> list[dict]:
    """Milliseconds of `ops.sampler_step` by its noise, and of the network in the same step."""
    config = pipe.model.denoiser.config
    z = torch.randn(batch, config.max_len, config.dim_latent)
    step, ids = torch.tensor(0), torch.arange(batch)
    steps = {"no noise": [[]], "one stream": [[(1, 1.0)]]}
    steps |= {f"path, {count} steps": step_noise(count, "time") for count in NOISE_STEPS}
    runs = {}
    for name, rows in steps.items():
        wide = max(map(len, rows))
        padded = [[*row, *[(0, 0.0)] * (wide - len(row))] for row in rows]
        coefficients = torch.rand(len(rows), 7)
        noise = ()
        if wide:
            streams, weights = torch.tensor(padded, dtype=torch.float64).unbind(-1)
            noise = (torch.tensor(1), ids, streams.long(), weights.float())

        def all_steps(
            coefficients: torch.Tensor = coefficients, noise: tuple = noise, count: int = len(rows)
        ) -> None:
            for place in range(count):
                ops.sampler_step(z, z, None, coefficients, step + place, *noise)

        runs[name] = all_steps
    with torch.inference_mode():
        timings = interleaved(runs, rounds=rounds)
        sample = partial(
            pipe.sample, batch, quality="paper", sampler="ddpm", num_inference_steps=8, batch_size=batch
        )
        network = interleaved({"steps": sample}, rounds=rounds, round_seconds=0)["steps"].median / 8
    return [
        {
            "noise": name,
            "streams": sum(map(len, steps[name])) / len(steps[name]),
            "ms": 1e3 * timings[name].median / len(steps[name]),
            "network_ms": 1e3 * network,
        }
        for name in runs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run_dir", type=Path, nargs="?", help="a finished run; default: the model that ships")
    parser.add_argument("--num-samples", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    pipe = TextDiffusionPipeline.from_pretrained(options.run_dir)
    known = available_precisions("cpu")
    precisions = [name for name in PRECISIONS if name in known]
    with torch.inference_mode():
        rows = mode_rows(pipe, precisions, options.num_samples, options.batch_sizes, options.rounds)
    pipe.set_deterministic(False)
    noise = noise_rows(pipe, options.num_samples, options.rounds)
    name = options.run_dir.name if options.run_dir else "the model that ships"
    for title, found in (
        (f"{name}, preset draft", rows),
        (f"a step of {options.num_samples} samples", noise),
    ):
        table = Table(title=title)
        for column in found[0]:
            table.add_column(column.replace("_", " "))
        for row in found:
            shown = [
                " ".join(f"{size}: {times['median']:.3g}" for size, times in value.items())
                if isinstance(value, dict)
                else f"{value:.3g}"
                if isinstance(value, float)
                else str(value)
                for value in row.values()
            ]
            table.add_row(*shown)
        Console().print(table)
    if options.json:
        sizes = {"num_samples": options.num_samples, "threads": torch.get_num_threads()}
        result = {"run": name, **sizes, "rows": rows, "noise": noise}
        result |= {"device": describe_device("cpu"), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(options.json)


if __name__ == "__main__":
    main()
