"""Times every operation at the paper's sizes in every backend, in interleaved runs.

python benchmarks/ops.py [--device cpu|cuda] [--op NAME ...] [--batch-sizes 8 64] [--dtypes float32] [--json FILE]

Backends: the plain reference eager and compiled, and the kernels (native C++ on a CPU, Triton on a GPU).
``share_of_ceiling`` compares with the time that the operation's FLOPs or its bytes (every input read once, every
output written once) would take at the rates of a large copy and a large product, measured in the same run; what
fits into the caches can exceed 1. With --json a plot is drawn beside the file.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from harness import (
    Timing,
    add_device,
    chosen_device,
    copy_bandwidth,
    describe_device,
    interleaved,
    product_rate,
    versions,
)
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ld4lg_fast.kernels import backend, ops, reference
from ld4lg_fast.kernels.case_table import benchmark_cases
from ld4lg_fast.kernels.testing import OpCase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
KERNELS = {"cpu": "native", "cuda": "triton"}
EAGER, COMPILED = "reference eager", "reference compiled"


class OpBenchmark:
    """One operation on one set of arguments: what it costs at least, and how long each backend takes."""

    def __init__(self, case: OpCase, dtype: torch.dtype, device: str, training: bool) -> None:
        self.case, self.dtype, self.device = case, dtype, device
        self.training = training and case.differentiable
        self.arguments = case.arguments(dtype, device)
        if not self.training:
            self.arguments = {
                name: value.detach() if isinstance(value, Tensor) else value
                for name, value in self.arguments.items()
            }

    def functions(self) -> dict[str, Callable[[], object]]:
        """A call of each backend by its name; `operation` looks the backend up, as the library does."""
        plain = getattr(reference, self.case.op)
        torch.compiler.reset()
        calls = {EAGER: self._call(plain), COMPILED: self._call(torch.compile(plain, dynamic=False))}
        name = KERNELS[self.device]
        if backend.unavailable_reason(name) is None:
            kernel = self._call(getattr(ops, self.case.op))

            def with_kernels() -> object:
                with backend.use_backend(name):
                    return kernel()

            calls[name] = with_kernels
        return calls

    def _call(self, function: Callable) -> Callable[[], object]:
        if self.training:
            return self._training_call(function)

        def call() -> object:
            with torch.no_grad():
                return function(**self.arguments)

        return call

    def _training_call(self, function: Callable) -> Callable[[], object]:
        leaves = [a for a in self.arguments.values() if isinstance(a, Tensor) and a.requires_grad]

        def outputs() -> list[Tensor]:
            result = function(**self.arguments)
            return [out for out in (result if isinstance(result, tuple) else (result,)) if out is not None]

        upstream = [torch.randn_like(out) for out in outputs()]
        return lambda: torch.autograd.grad(outputs(), leaves, upstream)

    def floor(self, bandwidth: float, rate: float) -> float:
        """Seconds that the operation takes at the machine's ceilings."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = getattr(reference, self.case.op)(**self.arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        tensors = [t for t in (*self.arguments.values(), *outputs) if isinstance(t, Tensor)]
        moved = sum(t.numel() * t.element_size() for t in tensors)
        return max(moved / bandwidth, counter.get_total_flops() / rate)

    def rows(self, timings: dict[str, Timing], floor: float) -> list[dict]:
        """The result's rows, one a backend."""
        return [
            {
                "op": self.case.op,
                "shape": self.case.name,
                "dtype": str(self.dtype).removeprefix("torch."),
                "mode": "forward and backward" if self.training else "forward",
                "backend": name,
                "median_us": timing.median * 1e6,
                "p20_us": timing.p20 * 1e6,
                "p80_us": timing.p80 * 1e6,
                "speedup_vs_eager": timings[EAGER].median / timing.median,
                "speedup_vs_compiled": timings[COMPILED].median / timing.median,
                "share_of_ceiling": None if self.training else floor / timing.median,
            }
            for name, timing in timings.items()
        ]


def print_table(rows: list[dict]) -> None:
    table = Table("op", "shape", "dtype", "mode", "backend", "µs", "× eager", "× compiled", "of ceiling")
    for row in rows:
        share = row["share_of_ceiling"]
        table.add_row(
            *(row[key] for key in ("op", "shape", "dtype", "mode", "backend")),
            f"{row['median_us']:.1f}",
            f"{row['speedup_vs_eager']:.2f}",
            f"{row['speedup_vs_compiled']:.2f}",
            "" if share is None else f"{share:.0%}",
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def plot(rows: list[dict], path: Path) -> None:
    """Speed-ups over the eager reference as bars, a group for each op, shape, dtype and mode."""
    from matplotlib.figure import Figure

    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        suffix = " +bwd" if row["mode"] != "forward" else ""
        name = f"{row['op']} {row['shape']} {row['dtype']}{suffix}"
        groups.setdefault(name, {})[row["backend"]] = row["speedup_vs_eager"]
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    figure = Figure(figsize=(9, 1 + 0.45 * len(groups)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / len(backends)
    for place, name in enumerate(backends):
        positions = [index + place * height for index in range(len(groups))]
        axes.barh(positions, [group.get(name, 0) for group in groups.values()], height, label=name)
    axes.set_yticks([index + 0.4 - height / 2 for index in range(len(groups))], list(groups))
    axes.invert_yaxis()
    axes.set_xlabel("speed-up over the eager reference")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device(parser)
    parser.add_argument("--op", nargs="+", help="only these operations")
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="sequences (default 8 64; on a GPU 8 256)")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default float32; on a GPU bfloat16")
    parser.add_argument("--json", type=Path, help="where to write the result; a plot comes beside it")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    batch_sizes = options.batch_sizes or {"cpu": [8, 64], "cuda": [8, 256]}[device]
    dtypes = [DTYPES[name] for name in options.dtypes or {"cpu": ["float32"], "cuda": ["bfloat16"]}[device]]
    cases = [case for batch in batch_sizes for case in benchmark_cases(batch)]
    known = sorted({case.op for case in cases})
    for name in options.op or ():
        if name not in known:
            parser.error(f"unknown operation {name}; choose among {', '.join(known)}")
    bandwidth = copy_bandwidth(device)
    rates = {dtype: product_rate(device, dtype) for dtype in dtypes}
    rows = []
    for case in cases:
        if options.op and case.op not in options.op:
            continue
        for dtype in dtypes:
            if dtype not in case.dtypes:
                continue
            for training in (False, True) if case.differentiable else (False,):
                benchmark = OpBenchmark(case, dtype, device, training)
                timings = interleaved(benchmark.functions(), device)
                added = benchmark.rows(timings, benchmark.floor(bandwidth, rates[dtype]))
                rows += added
                print(f"{case.id} {added[0]['dtype']}, {added[0]['mode']}", flush=True)
    print_table(rows)
    ceilings = {"copy_gb_per_s": bandwidth / 1e9}
    ceilings |= {
        f"product_tflop_per_s_{str(d).removeprefix('torch.')}": rate / 1e12 for d, rate in rates.items()
    }
    result = {
        "ops": rows,
        "ceilings": ceilings,
        "device": describe_device(device),
        "versions": versions(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        plot(rows, options.json.with_suffix(".png"))
        print(options.json, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
