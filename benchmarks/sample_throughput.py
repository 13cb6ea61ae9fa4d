"""The ladder from the published sampler, as its authors run it, to this library with everything on.

python benchmarks/sample_throughput.py [--config paper-v2|paper-v1|small] [--num-inference-steps N]
    [--batch-sizes N ...] [--guidance W] [--precisions fp32 bf16 ...] [--only NAME ...] [--device cpu|cuda]
    [--json FILE]

The models have the papers' sizes and random weights, the same in every rung. All rungs of a batch size run in
turns. ``denoise`` is sampling latents, ``decode`` writing texts of them by beam search with the paper's rules,
through ``generate`` of transformers in the published rungs; ``samples_per_s`` counts both, with as many steps as
ran. ``drift`` and ``tokens_changed`` say what a precision costs the model that ships (precision_drift.py), since
random weights amplify every rounding; ``difference_from_published``, in the JSON alone, compares the latents of the
random weights, and is small only in fp32. Shares of the ceiling are of a large matmul of torch, timed in the same run.
Under guidance a rung of each precision guides in the middle of the times alone (Kynkäänniemi et al. 2024), which
computes something else. On a GPU the engine runs with Triton's kernels wherever there are any, and in fp32, bf16 and
fp16 with its blocks compiled, too; a rung that does not replay its CUDA graph is an error and gets no row.
With --json a plot and a Markdown table are written beside the file.
"""

import argparse
import copy
from collections.abc import Callable
from pathlib import Path

import torch
from harness import (
    add_device,
    add_precisions,
    added_peak_mib,
    available_precisions,
    chosen_device,
    interleaved,
    product_rate,
    timed,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.graph_counts import CountedCall, counted_graphs, graph_fault
from benchmarks.ladder import Rung, announce, end_with, print_ladder, speedups
from benchmarks.paper_models import CONFIGS, NUM_CLASSES, SamplingSetup, make_setup
from benchmarks.precision_drift import drift_rows
from benchmarks.remedies import REMEDIES, Remedies
from benchmarks.text_decoding import TextDecoding
from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import path_noise
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.precision import Fp8Linear, PlainLinear, Tf32Linear
from ld4lg_fast.engine.regional_compile import compile_regions
from ld4lg_fast.engine.step_table import START_STREAM
from ld4lg_fast.kernels import ops
from ld4lg_fast.kernels.backend import use_backend

SEED = 0
GUIDED_TIMES = (0.25, 0.75)
COMPILED = ("fp32", "bf16", "fp16")  # whose products are torch's own on a GPU
DRIFT_SAMPLES = 32


class _Int8Matmul(PlainLinear):
    """torch's matmul of bytes, without scales."""

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return torch._int_mm(x, self.weight.t())


# The large matmul that a precision's share of the ceiling is taken of.
MATMULS: dict[str, tuple[torch.dtype, type]] = {
    "fp32": (torch.float32, PlainLinear),
    "tf32": (torch.float32, Tf32Linear),
    "bf16": (torch.bfloat16, PlainLinear),
    "fp16": (torch.float16, PlainLinear),
    "int8": (torch.int8, _Int8Matmul),
    "fp8": (torch.bfloat16, Fp8Linear),
}
COLUMNS = (
    *("name", "batch", "denoise_ms_per_step", "decode_ms_per_sample", "samples_per_s"),
    *("speedup_vs_published", "speedup_vs_remedies", "share_of_ceiling", "share_of_bf16_ceiling"),
    *("added_peak_mib", "time_to_first_s", "drift", "tokens_changed"),
)


class Ladder:
    """All rungs of one batch size."""

    def __init__(
        self,
        setup: SamplingSetup,
        decoding: TextDecoding,
        batch: int,
        num_steps: int,
        guidance: float,
        device: str,
    ) -> None:
        self.setup, self.decoding, self.batch, self.num_steps = setup, decoding, batch, num_steps
        self.guidance, self.device = guidance, device
        torch.compiler.reset()  # else what another batch size has compiled would be compiled for any size
        self.compiled = None
        if device == "cuda":
            self.compiled = copy.deepcopy(setup.ours)
            compile_regions(self.compiled.denoiser)
        self.lengths = setup.lengths(batch)
        self.class_id = 0 if setup.ours.denoiser.config.num_classes else None
        self.errors: list[str] = []

    def rungs(self, precisions: list[str], with_compile: bool = True) -> list[Rung]:
        found = [Rung("published", "fp32", False, self._published(Remedies()))]
        for precision in precisions:
            for name, remedies in REMEDIES.get(precision, {}).items():
                if remedies.compile and not with_compile:
                    continue
                found.append(Rung(f"published + {name}", precision, False, self._published(remedies)))
        if "fp32" in precisions:
            found.append(Rung("engine, plain ops, fp32", "fp32", True, self._ours("fp32", "reference")))
        for precision in precisions:
            found.append(Rung(f"engine, {precision}", precision, True, self._ours(precision, "auto")))
            if self.compiled is not None:
                run = self._ours(precision, "triton")
                found.append(Rung(f"engine, {precision}, Triton's kernels alone", precision, True, run))
                if precision in COMPILED and with_compile:
                    run = self._ours(precision, "auto", model=self.compiled)
                    found.append(Rung(f"engine, {precision}, compiled", precision, True, run))
            if self.guidance != 1.0:
                low, high = GUIDED_TIMES
                name = f"engine, {precision}, guided only at times {low:g} to {high:g}"
                found.append(Rung(name, precision, True, self._ours(precision, "auto", GUIDED_TIMES)))
        return found

    def _published(self, remedies: Remedies, num_steps: int | None = None) -> Callable[[], Tensor]:
        network = remedies.apply(self.setup.network, padded=self.lengths is not None)

        def run() -> Tensor:
            with remedies.precision(self.device):
                return self.setup.sample_published(
                    network,
                    self.batch,
                    num_steps or self.num_steps,
                    self._noise,
                    lengths=self.lengths,
                    class_id=self.class_id,
                    guidance_scale=self.guidance,
                )

        return run

    def _noise(self, step: int) -> Tensor:
        """What the engine draws, so that drift is no chance; -1 is the start."""
        config = self.setup.ours.denoiser.config
        ids = torch.arange(self.batch, device=self.device)
        shape = (config.max_len, config.dim_latent)
        if step >= 0:
            return self.path(step)
        self.path = path_noise(SEED, ids, shape, self.num_steps)
        return ops.philox_normal(SEED, ids, START_STREAM, shape)

    def _ours(
        self,
        precision: str,
        backend: str,
        guided_times: tuple[float, float] = (0.0, 1.0),
        model: LatentDiffusion | None = None,
    ) -> Callable[[], Tensor]:
        def run() -> Tensor:
            with use_backend(backend):
                return sample_latents(
                    model or self.setup.ours,
                    self.batch,
                    sampler=self.setup.sampler,
                    num_inference_steps=self.num_steps,
                    seed=SEED,
                    batch_size=self.batch,
                    guidance_scale=self.guidance,
                    guidance_interval=guided_times,
                    class_id=self.class_id,
                    lengths=self.lengths,
                    precision=precision,
                )

        return run

    def flops_per_step(self) -> int:
        """Of the published network: the floor that all rungs are compared with."""
        steps = min(4, self.num_steps)
        with FlopCounterMode(display=False) as counter:
            self._published(Remedies(), steps)()
        return counter.get_total_flops() // steps

    def difference(self, latents: Tensor, published: Tensor) -> float:
        """Root mean square difference over root mean square, at real positions."""
        real = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        if self.lengths is not None:
            real = torch.arange(latents.shape[1]) < self.lengths[:, None]
            real = real.to(latents.device)
        difference = (latents.float() - published.float())[real]
        return (difference.square().mean() / published.float()[real].square().mean()).sqrt().item()

    def measure(
        self, rungs: list[Rung], rounds: int, rates: dict[str, float], drifts: dict[str, dict]
    ) -> list[dict]:
        """One row a rung; a graph that is not replayed is an error, and its rung has no row."""
        with counted_graphs() as counts:
            for rung in rungs:
                rung.run = CountedCall(rung.run, counts)
            return self._measure(rungs, rounds, rates, drifts)

    def _measure(
        self, rungs: list[Rung], rounds: int, rates: dict[str, float], drifts: dict[str, dict]
    ) -> list[dict]:
        flops = self.flops_per_step() * self.num_steps
        first, peaks, differences = {}, {}, {}
        wanted = None
        for rung in rungs:
            announce(rung)
            first[rung.name], latents = timed(rung.run, self.device)
            wanted = latents if wanted is None else wanted
            compared = rungs[0].name == "published"
            differences[rung.name] = self.difference(latents, wanted) if compared else None
            peaks[rung.name] = added_peak_mib(rung.run, self.device)
            print(f"{rung.name}: first call {first[rung.name]:.1f} s", flush=True)
        decode = self.decoding.seconds(
            wanted, {rung.precision if rung.ours else "published" for rung in rungs}
        )
        timings = interleaved({rung.name: rung.run for rung in rungs}, self.device, rounds, round_seconds=0)
        gains = speedups(rungs, {name: timing.median for name, timing in timings.items()})
        rows = []
        for rung in rungs:
            if fault := self._graph_fault(rung):
                self.errors.append(fault)
                continue
            timing = timings[rung.name]
            decoder = rung.precision if rung.ours else "published"
            rows.append(
                {
                    "name": rung.name,
                    "precision": rung.precision,
                    "batch": self.batch,
                    "steps": self.num_steps,
                    "guidance": self.guidance,
                    "denoise_ms_per_step": timing.median / self.num_steps * 1e3,
                    "denoise_ms_per_step_p20": timing.p20 / self.num_steps * 1e3,
                    "denoise_ms_per_step_p80": timing.p80 / self.num_steps * 1e3,
                    "decode_ms_per_sample": decode[decoder] / self.batch * 1e3,
                    "samples_per_s": self.batch / (timing.median + decode[decoder]),
                    **gains[rung.name],
                    "share_of_ceiling": flops / rates[rung.precision] / timing.median,
                    "share_of_bf16_ceiling": flops / rates["bf16"] / timing.median
                    if "bf16" in rates
                    else None,
                    "added_peak_mib": peaks[rung.name],
                    "time_to_first_s": first[rung.name] + decode[decoder],
                    "difference_from_published": differences[rung.name],
                    "graph_captures": rung.run.last.captures,
                    "graph_replays": rung.run.last.replays,
                    **(drifts[rung.precision] if rung.ours else dict.fromkeys(("drift", "tokens_changed"))),
                }
            )
        return rows

    def _graph_fault(self, rung: Rung) -> str | None:
        """Of every batch the first step of a kind is captured, and all others are replayed."""
        if not (rung.ours and self.device == "cuda"):
            return None
        kinds = 2 if "guided only" in rung.name else 1
        name = f"{rung.name}, batch {self.batch}"
        return graph_fault(name, rung.run.last, kinds, max(0, self.num_steps - kinds))


def trained_drifts(device: str, precisions: list[str]) -> dict[str, dict]:
    """``drift`` and ``tokens_changed`` of the model that ships, by precision."""
    pipe = TextDiffusionPipeline.from_pretrained().to(device)
    rows = drift_rows(pipe, [name for name in precisions if name != "fp32"], DRIFT_SAMPLES, "balanced")
    return {"fp32": {"drift": 0.0, "tokens_changed": 0.0}} | {
        row["precision"]: {name: row[name] for name in ("drift", "tokens_changed")}
        for row in rows
        if row["part"] == "both"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="paper-v2")
    add_device(parser)
    parser.add_argument("--num-inference-steps", type=int, help="of every run (default 4; on a GPU 50)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="default 1 8; on a GPU 1 256")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="guidance scale; not 1 makes the model class-conditional"
    )
    add_precisions(parser, MATMULS, "default: all that the device multiplies in by itself")
    parser.add_argument("--without-compile", action="store_true", help="leave out what takes long to compile")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these rungs")
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds")
    parser.add_argument(
        "--json", type=Path, help="where to write the result; a table and a plot come beside it"
    )
    options = parser.parse_args()
    device = chosen_device(parser, options)
    if options.guidance != 1.0 and options.config == "paper-v1":
        parser.error("the published recipe v1 has no guidance; leave --guidance out")
    on_gpu = device == "cuda"
    steps = options.num_inference_steps or (50 if on_gpu else 4)
    precisions = options.precisions or available_precisions(device)
    setup = make_setup(options.config, device, NUM_CLASSES if options.guidance != 1.0 else 0)
    decoding = TextDecoding(setup, options.config, device)
    rates = {name: product_rate(device, *MATMULS[name]) for name in ["fp32", *precisions]}
    drifts = trained_drifts(device, precisions)
    rungs, errors = [], []
    for batch in options.batch_sizes or ([1, 256] if on_gpu else [1, 8]):
        ladder = Ladder(setup, decoding, batch, steps, options.guidance, device)
        found = {rung.name: rung for rung in ladder.rungs(precisions, not options.without_compile)}
        for name in options.only or ():
            if name not in found:
                parser.error(f"unknown rung {name!r}; choose among {', '.join(map(repr, found))}")
        wanted = [rung for name, rung in found.items() if name in (options.only or found)]
        rungs += ladder.measure(wanted, options.rounds, rates, drifts)
        errors += ladder.errors
    print_ladder(rungs, COLUMNS, f"{options.config}, {steps} steps, guidance {options.guidance:g}, {device}")
    result = {"config": options.config, "rungs": rungs, "errors": errors}
    end_with(result, COLUMNS, rates, device, options.json)


if __name__ == "__main__":
    main()
