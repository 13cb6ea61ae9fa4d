"""Where the time between launches goes: the share in which the device works, its pauses, the kernels that take longest.

python benchmarks/launch_gaps.py [--config paper-v2] [--batch-size N] [--precision bf16] [--num-inference-steps N]
    [--device cpu|cuda] [--json FILE]

Profiles one warm call of the engine with torch's profiler, on a GPU both replayed as CUDA graphs and eagerly. ``busy``
is the share of the time from the first kernel's start to the last one's end in which any kernel runs; ``gaps`` are the
pauses in it. On a CPU the operators of torch take the kernels' place, and gaps are Python's time between them.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from harness import add_device, chosen_device, describe_device, synchronize, versions
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.ladder import cell, print_ladder
from benchmarks.paper_models import CONFIGS, make_setup
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.precision import PRECISIONS

TOP = 15
Interval = tuple[str, float, float]
"""(name, start, end) in microseconds."""


def time_of_kernels(intervals: Iterable[Interval]) -> dict:
    """``span_ms``, ``busy`` and ``gaps`` of kernels that may overlap, and the `TOP` names by their time."""
    ordered = sorted(intervals, key=lambda interval: interval[1])
    if not ordered:
        return {"kernels": 0, "span_ms": 0.0, "busy": None, "gaps": None, "top": []}
    totals: dict[str, list[float]] = defaultdict(list)
    gaps, end = [], ordered[0][1]
    for name, start, stop in ordered:
        totals[name].append(stop - start)
        if start > end:
            gaps.append(start - end)
        end = max(end, stop)
    span = end - ordered[0][1]
    whole = sum(map(sum, totals.values()))
    top = sorted(totals.items(), key=lambda item: -sum(item[1]))[:TOP]
    return {
        "kernels": len(ordered),
        "span_ms": span / 1e3,
        "busy": 1 - sum(gaps) / span if span else None,
        "gaps": {
            "number": len(gaps),
            "total_ms": sum(gaps) / 1e3,
            "median_us": sorted(gaps)[len(gaps) // 2] if gaps else 0.0,
            "largest_us": max(gaps, default=0.0),
        },
        "top": [
            {"name": name, "calls": len(times), "total_ms": sum(times) / 1e3, "share": sum(times) / whole}
            for name, times in top
        ],
    }


def kernels(profiler: profile, device: str) -> list[Interval]:
    """What ran on the GPU; on a CPU the operators that call no other operator."""
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    return [
        (event.name, event.time_range.start, event.time_range.end)
        for event in profiler.events()
        if event.device_type == kind and (device == "cuda" or not event.cpu_children)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="paper-v2")
    parser.add_argument("--batch-size", type=int, help="default 8; on a GPU 256")
    parser.add_argument("--precision", choices=PRECISIONS, help="default fp32; on a GPU bf16")
    parser.add_argument("--num-inference-steps", type=int, default=10)
    add_device(parser)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    on_gpu = device == "cuda"
    batch = options.batch_size or (256 if on_gpu else 8)
    setup = make_setup(options.config, device)
    given = {
        "sampler": setup.sampler,
        "num_inference_steps": options.num_inference_steps,
        "batch_size": batch,
    }
    given |= {
        "lengths": setup.lengths(batch),
        "precision": options.precision or ("bf16" if on_gpu else "fp32"),
    }
    found = []
    for name, graph in {"replayed": True, "eager": False}.items() if on_gpu else {"eager": False}.items():
        run = partial(sample_latents, setup.ours, batch, cuda_graph=graph, **given)
        run()
        synchronize(device)
        with profile(activities=[ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]) as profiler:
            run()
            synchronize(device)
        found.append({"name": name, "batch": batch} | time_of_kernels(kernels(profiler, device)))
        title = f"{name}: busy for {cell(found[-1]['busy'])} of {found[-1]['span_ms']:.1f} ms"
        print_ladder(found[-1]["top"], ("name", "calls", "total_ms", "share"), title)
    if options.json:
        given.pop("lengths")
        result = {"config": options.config, "settings": given, "profiles": found}
        result |= {"device": describe_device(device), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
