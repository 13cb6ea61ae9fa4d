"""The ladder from the published sampler, as its authors run it, to this library with everything on.

python benchmarks/sample_throughput.py [--config paper-v2|paper-v1|small] [--num-inference-steps N]
    [--batch-sizes N ...] [--guidance W] [--precisions fp32 bf16 ...] [--only NAME ...] [--device cpu|cuda]
    [--json FILE]

The models have the papers' sizes and random weights, the same in every rung. All rungs of a batch size run in
turns. ``denoise`` is sampling latents, ``decode`` writing texts of them by beam search with the paper's rules,
through ``generate`` of transformers in the published rungs; ``samples_per_s`` counts both, with as many steps as
ran. ``drift`` is the root mean square of a rung's latents minus the published ones in fp32, from the same noise,
over the root mean square of those, and ``tokens_changed`` the share of greedily decoded tokens that differ; random
weights amplify both, precision_drift.py tells them of a trained model. ``time_to_first_s`` is the first call of all,
with compilation and preparation. Under guidance a rung of each precision guides in the middle of the times alone
(Kynkäänniemi et al. 2024): it computes something else, and its drift is that from guidance at all times. On a GPU
the engine runs with Triton's kernels wherever there are any, and in fp32, bf16 and fp16 with its blocks compiled, too.
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
    chosen_device,
    describe_device,
    interleaved,
    peak_mib,
    product_rate,
    timed,
    versions,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.ladder import Rung, print_ladder, speedups, write_ladder
from benchmarks.paper_models import CONFIGS, NUM_CLASSES, SamplingSetup, make_setup
from benchmarks.remedies import REMEDIES, Remedies
from benchmarks.text_decoding import TextDecoding
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.precision import PlainLinear, Tf32Linear
from ld4lg_fast.engine.regional_compile import compile_regions
from ld4lg_fast.engine.sampling_run import START_STREAM
from ld4lg_fast.kernels import ops
from ld4lg_fast.kernels.backend import use_backend

SEED = 0
GUIDED_TIMES = (0.25, 0.75)
COMPILED = ("fp32", "bf16", "fp16")  # whose products are torch's own on a GPU
# The products that a precision's share of the ceiling is taken of; there is no plain product of int8 or fp8.
DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.float32,
    "fp8": torch.bfloat16,
}
COLUMNS = (
    *("name", "batch", "denoise_ms_per_step", "decode_ms_per_sample", "samples_per_s"),
    *("speedup_vs_published", "speedup_vs_remedies", "share_of_ceiling"),
    *("peak_mib", "time_to_first_s", "drift", "tokens_changed"),
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

    def rungs(self, precisions: list[str]) -> list[Rung]:
        found = [Rung("published", "fp32", False, self._published(Remedies()))]
        for precision in precisions:
            for name, remedies in REMEDIES.get(precision, {}).items():
                found.append(Rung(f"published + {name}", precision, False, self._published(remedies)))
        if "fp32" in precisions:
            found.append(Rung("engine, plain ops, fp32", "fp32", True, self._ours("fp32", "reference")))
        for precision in precisions:
            found.append(Rung(f"engine, {precision}", precision, True, self._ours(precision, "auto")))
            if self.compiled is not None:
                run = self._ours(precision, "triton")
                found.append(Rung(f"engine, {precision}, Triton's kernels alone", precision, True, run))
                if precision in COMPILED:
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
        return ops.philox_normal(SEED, ids, START_STREAM + 1 + step, (config.max_len, config.dim_latent))

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
                    num_steps=self.num_steps,
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

    def drift(self, latents: Tensor, published: Tensor) -> float:
        """Root mean square difference over root mean square, at real positions."""
        real = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        if self.lengths is not None:
            real = torch.arange(latents.shape[1]) < self.lengths[:, None]
            real = real.to(latents.device)
        difference = (latents.float() - published.float())[real]
        return (difference.square().mean() / published.float()[real].square().mean()).sqrt().item()

    def measure(self, rungs: list[Rung], rounds: int, rates: dict[str, float]) -> list[dict]:
        """One row a rung; drift is that from the first one where it is the published one."""
        flops = self.flops_per_step()
        first, drifts, peaks, changed = {}, {}, {}, {}
        wanted = None
        for rung in rungs:
            first[rung.name], latents = timed(rung.run, self.device)
            wanted = latents if wanted is None else wanted
            drifts[rung.name] = changed[rung.name] = None
            if rungs[0].name == "published":
                drifts[rung.name] = self.drift(latents, wanted)
                changed[rung.name] = self.decoding.tokens_changed(
                    latents, wanted, self.lengths, rung.precision
                )
            peaks[rung.name] = peak_mib(rung.run, self.device)
            print(f"{rung.name}: first call {first[rung.name]:.1f} s", flush=True)
        decode = self.decoding.seconds(
            wanted, {rung.precision if rung.ours else "published" for rung in rungs}
        )
        timings = interleaved({rung.name: rung.run for rung in rungs}, self.device, rounds, round_seconds=0)
        gains = speedups(rungs, {name: timing.median for name, timing in timings.items()})
        rows = []
        for rung in rungs:
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
                    "share_of_ceiling": flops * self.num_steps / rates[rung.precision] / timing.median,
                    "peak_mib": peaks[rung.name],
                    "time_to_first_s": first[rung.name] + decode[decoder],
                    "drift": drifts[rung.name],
                    "tokens_changed": changed[rung.name],
                }
            )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="paper-v2")
    add_device(parser)
    parser.add_argument("--num-inference-steps", type=int, help="of every run (default 4; on a GPU 50)")
    parser.add_argument("--batch-sizes", nargs="+", type=int, help="default 1 8; on a GPU 1 256")
    parser.add_argument(
        "--guidance", type=float, default=1.0, help="guidance scale; not 1 makes the model class-conditional"
    )
    add_precisions(parser, DTYPES, "default fp32; on a GPU fp32 bf16 fp8")
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
    precisions = options.precisions or (["fp32", "bf16", "fp8"] if on_gpu else ["fp32"])
    setup = make_setup(options.config, device, NUM_CLASSES if options.guidance != 1.0 else 0)
    decoding = TextDecoding(setup, options.config, device)
    rates = {
        name: product_rate(device, DTYPES[name], Tf32Linear if name == "tf32" else PlainLinear)
        for name in {"fp32", *precisions}
    }
    rungs = []
    for batch in options.batch_sizes or ([1, 256] if on_gpu else [1, 8]):
        ladder = Ladder(setup, decoding, batch, steps, options.guidance, device)
        found = {rung.name: rung for rung in ladder.rungs(precisions)}
        for name in options.only or ():
            if name not in found:
                parser.error(f"unknown rung {name!r}; choose among {', '.join(map(repr, found))}")
        wanted = [rung for name, rung in found.items() if name in (options.only or found)]
        rungs += ladder.measure(wanted, options.rounds, rates)
    print_ladder(rungs, COLUMNS, f"{options.config}, {steps} steps, guidance {options.guidance:g}, {device}")
    result = {
        "config": options.config,
        "rungs": rungs,
        "ceilings": {f"product_tflop_per_s_{name}": rate / 1e12 for name, rate in rates.items()},
        "device": describe_device(device),
        "versions": versions(),
    }
    if options.json:
        write_ladder(result, COLUMNS, "speedup_vs_published", options.json)


if __name__ == "__main__":
    main()
