"""Times every operation, and the denoiser made of them, at the paper's sizes in every backend, in interleaved runs.

python benchmarks/ops.py [--device cpu|cuda] [--op NAME ...] [--batch-sizes 8 64] [--precisions fp32] [--json FILE]

Backends: the plain reference eager and compiled, and the kernels (native C++ on a CPU, Triton on a GPU). Where
the library itself goes to the reference, because the kernel is slower there, a row "auto (reference)" says so.
The denoiser runs with its weights as training has them, and "prepared", as the sampling engine has them.
``share_of_ceiling`` compares with the time that the operation's FLOPs or its bytes (every input read once, every
output written once) would take at the rates of a large copy and a large product, measured in the same run; what
fits into the caches can exceed 1. With --json a plot is drawn beside the file; what the file holds already of
other operations, sizes and dtypes on the same machine stays in it, so that a long run may be made in parts.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from harness import (
    add_device,
    add_precisions,
    can_plot,
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

from benchmarks.paper_models import make_setup
from ld4lg_fast.engine.packed_weights import prepared_denoiser
from ld4lg_fast.kernels import backend, ops, reference
from ld4lg_fast.kernels.case_table import benchmark_cases
from ld4lg_fast.kernels.testing import OpCase
from ld4lg_fast.training.malloc_settings import keep_freed_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KERNELS = {"cpu": "native", "cuda": "triton"}
SLOW = {"denoiser", "linear_cross_entropy"}  # which a few rounds tell as much of
EAGER, COMPILED = "reference eager", "reference compiled"
AUTO, AUTO_IN_TWO = "auto (reference)", "auto (product, geglu)"


class OpBenchmark:
    """One operation on one set of arguments: what it costs at least, and how long each backend takes."""

    def __init__(self, case: OpCase, dtype: torch.dtype, device: str, training: bool) -> None:
        self.case, self.dtype, self.device = case, dtype, device
        self.name, self.shape = case.op, case.name
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
        ours, name = self._call(getattr(ops, self.case.op)), KERNELS[self.device]

        def with_kernel() -> object:
            with backend.use_backend(name):
                return ours()

        if (self.device, self.case.op) == ("cuda", "geglu_linear"):
            return calls | {name: with_kernel, AUTO_IN_TWO: ours}
        if self._has_kernel("auto"):
            return calls | {name: ours}
        if backend.unavailable_reason(name) is None and self._has_kernel(name):
            calls[name] = with_kernel
        return calls | {AUTO: ours}

    def _has_kernel(self, name: str) -> bool:
        """Whether the backend ``name`` takes these arguments elsewhere than to the plain reference."""
        module = import_module(f"ld4lg_fast.kernels.{self.case.op}.reference")
        with patch.object(module, self.case.op) as called, backend.use_backend(name):
            getattr(ops, self.case.op)(**self.arguments)
        return not called.called

    def _call(self, function: Callable) -> Callable[[], object]:
        return self._training_call(function) if self.training else partial(function, **self.arguments)

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


class DenoiserBenchmark:
    """The whole forward pass of the paper's denoiser (v2): the published module, and ours with its kernels."""

    name, training = "denoiser", False

    def __init__(self, batch: int, dtype: torch.dtype, device: str) -> None:
        self.device, self.dtype = device, dtype
        self.setup = make_setup("paper-v2", device)
        config = self.setup.ours.denoiser.config
        self.shape = f"{batch}x{config.max_len}x{config.dim}"
        self.z = torch.randn(batch, config.max_len, config.dim_latent, device=device)
        self.time, self.mask = torch.rand(batch, device=device), torch.ones_like(self.z[..., 0]).bool()

    def functions(self) -> dict[str, Callable[[], object]]:
        """A call of each backend by its name; the published weights are float32, and autocast where asked for less."""
        torch.compiler.reset()
        network, ours = self.setup.network, self.setup.ours.denoiser.to(self.dtype)
        z, kernels = self.z.to(self.dtype), KERNELS[self.device]

        def published(network: torch.nn.Module) -> object:
            with torch.autocast(self.device, self.dtype, self.dtype != torch.float32):
                return network(self.z, self.mask, self.time, self.z)

        compiled = torch.compile(network, dynamic=False)
        calls = {EAGER: partial(published, network), COMPILED: partial(published, compiled)}
        if backend.unavailable_reason(kernels) is None:
            calls[kernels] = partial(ours, z, self.time, x_self_cond=z)
            prepared = prepared_denoiser(ours, None)
            calls[f"{kernels}, prepared"] = partial(prepared, z, self.time, x_self_cond=z)
        return calls

    def floor(self, bandwidth: float, rate: float) -> float:
        """Seconds that the network's FLOPs take at the machine's ceiling."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.setup.network(self.z, self.mask, self.time, self.z)
        return counter.get_total_flops() / rate


def measure(benchmark: OpBenchmark | DenoiserBenchmark, bandwidth: float, rate: float) -> list[dict]:
    """The result's rows, one a backend, from interleaved runs."""
    with torch.inference_mode(not benchmark.training):
        rounds = 5 if benchmark.name in SLOW else 15
        timings = interleaved(benchmark.functions(), benchmark.device, rounds)
    floor = benchmark.floor(bandwidth, rate)
    shared = {
        "op": benchmark.name,
        "shape": benchmark.shape,
        "dtype": str(benchmark.dtype).removeprefix("torch."),
        "mode": "forward and backward" if benchmark.training else "forward",
    }
    rows = [
        shared
        | {
            "backend": name,
            "median_us": timing.median * 1e6,
            "p20_us": timing.p20 * 1e6,
            "p80_us": timing.p80 * 1e6,
            "floor_us": None if benchmark.training else floor * 1e6,
            "speedup_vs_eager": timings[EAGER].median / timing.median,
            "speedup_vs_compiled": timings[COMPILED].median / timing.median,
            "share_of_ceiling": None if benchmark.training else floor / timing.median,
        }
        for name, timing in timings.items()
    ]
    print(" ".join(shared.values()), flush=True)
    return rows


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


def kept_rows(path: Path, machine: dict, rows: list[dict]) -> list[dict]:
    """Rows of an earlier run on the same machine that ``rows`` do not replace."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if {key: earlier[key] for key in machine} != machine:
        return []

    def measured(row: dict) -> tuple:
        return row["op"], row["shape"], row["dtype"]

    replaced = set(map(measured, rows))
    return [row for row in earlier["ops"] if measured(row) not in replaced]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device(parser)
    parser.add_argument("--op", nargs="+", help="only these operations")
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="sequences (default 8 64; on a GPU 8 256)")
    add_precisions(parser, DTYPES, "default fp32; on a GPU bf16")
    parser.add_argument("--json", type=Path, help="where to write the result; a plot comes beside it")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    keep_freed_memory()  # of all backends alike: else the time is that of mapping pages, and as chance has it
    batch_sizes = options.batch_sizes or {"cpu": [8, 64], "cuda": [8, 256]}[device]
    dtypes = [DTYPES[name] for name in options.precisions or {"cpu": ["fp32"], "cuda": ["bf16"]}[device]]
    cases = [case for batch in batch_sizes for case in benchmark_cases(batch)]
    known = sorted({DenoiserBenchmark.name, *(case.op for case in cases)})
    for name in options.op or ():
        if name not in known:
            parser.error(f"unknown operation {name}; choose among {', '.join(known)}")
    wanted = options.op or known
    bandwidth = copy_bandwidth(device)
    rates = {dtype: product_rate(device, dtype) for dtype in dtypes}
    rows = []
    for case, dtype in product(cases, dtypes):
        if case.op not in wanted or dtype not in case.dtypes or not case.runs_on(device):
            continue
        for training in (False, True) if case.differentiable else (False,):
            rows += measure(OpBenchmark(case, dtype, device, training), bandwidth, rates[dtype])
    if DenoiserBenchmark.name in wanted:
        for batch, dtype in product(batch_sizes, dtypes):
            rows += measure(DenoiserBenchmark(batch, dtype, device), bandwidth, rates[dtype])
    print_table(rows)
    ceilings = {"copy_gb_per_s": bandwidth / 1e9}
    ceilings |= {
        f"product_tflop_per_s_{str(d).removeprefix('torch.')}": rate / 1e12 for d, rate in rates.items()
    }
    machine = {"device": describe_device(device), "versions": versions()}
    if options.json:
        result = {"ops": kept_rows(options.json, machine, rows) + rows, "ceilings": ceilings} | machine
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(options.json)
        if can_plot():
            plot(result["ops"], options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
