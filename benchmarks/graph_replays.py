"""Compares replayed CUDA graphs with eager steps: every sampler, odd numbers of steps, with and without guidance.

python benchmarks/graph_replays.py [--configs small paper-v1] [--num-inference-steps 3 7 25] [--json FILE]

Needs a GPU. Both ways start from the same noise; ``difference`` is the largest of their latents, over the largest
latent. A difference above 1e-5, a graph that is never replayed and one that is captured again after the first step of
its kind are errors: the command then ends with exit code 1.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from harness import chosen_device, describe_device, versions
from torch import Tensor

from benchmarks.graph_counts import CountedCall, counted_graphs, graph_fault
from benchmarks.paper_models import CONFIGS, NUM_CLASSES, make_setup
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.engine.engine import sample_latents

TOLERANCE = 1e-5
BATCH = 5
GUIDED = {"none": (1.0, (0.0, 1.0)), "all steps": (2.0, (0.0, 1.0)), "the middle": (2.0, (0.25, 0.75))}


def compare(
    sample: Callable[..., Tensor], samplers: Iterable[str], steps: Iterable[int], guided: Iterable[str]
) -> list[dict]:
    """A row for each sampler, number of steps and guidance of ``sample(cuda_graph=…, sampler=…, …)``."""
    rows = []
    for sampler in samplers:
        for number in steps:
            for name in guided:
                scale, interval = GUIDED[name]
                given = {"sampler": sampler, "num_inference_steps": number}
                given |= {"guidance_scale": scale, "guidance_interval": interval}
                eager = sample(cuda_graph=False, **given)
                with counted_graphs() as counts:
                    replayed = CountedCall(partial(sample, cuda_graph=True, **given), counts)
                    difference = (replayed() - eager).abs().max() / eager.abs().max()
                last, kinds = replayed.last, 2 if name == "the middle" else 1
                fault = graph_fault(f"{sampler}, {number} steps", last, kinds, max(0, number - kinds))
                if fault is None and not difference <= TOLERANCE:
                    fault = f"{sampler}, {number} steps: replayed latents differ by {difference:.1e}."
                rows.append(
                    {"sampler": sampler, "steps": number, "guidance": name, "difference": difference.item()}
                    | {"captures": last.captures, "replays": last.replays, "fault": fault}
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", nargs="+", choices=CONFIGS, default=["small", "paper-v1"])
    parser.add_argument("--num-inference-steps", nargs="+", type=int, default=[3, 7, 25])
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    options.device = "cuda"
    chosen_device(parser, options)
    rows = []
    for config in options.configs:
        setup = make_setup(config, "cuda", NUM_CLASSES)
        lengths = setup.lengths(BATCH)
        sample = partial(sample_latents, setup.ours, BATCH, class_id=0, lengths=lengths)
        rows += [
            {"config": config} | row for row in compare(sample, SAMPLERS, options.num_inference_steps, GUIDED)
        ]
        torch.cuda.empty_cache()
    errors = [f"{row['config']}, {row['fault']}" for row in rows if row["fault"]]
    print(f"{len(rows)} comparisons of replayed with eager steps, {len(errors)} errors", *errors, sep="\n")
    if options.json:
        result = {
            "replays": rows,
            "errors": errors,
            "device": describe_device("cuda"),
            "versions": versions(),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
