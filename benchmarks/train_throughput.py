"""The ladder from the published training loop, as its authors run it, to this library's, for both stages.

python benchmarks/train_throughput.py [--config paper-v2|paper-v1|small] [--stage autoencoder|diffusion|both]
    [--batch-size N] [--precisions fp32 bf16] [--device cpu|cuda] [--rounds N] [--json FILE]

The models have the papers' sizes and random weights, the texts E2E's lengths. All rungs of a stage run in turns.
``mfu`` is the share of a large matrix product's rate; its FLOPs are those of our step (forward, backward, half a
self-conditioning pass; no frozen encoder, little padding) whatever a rung computes beside them. ``paper_hours``
is the time for the paper's number of texts at the measured rate. With --json a plot and a Markdown table are
written beside the file. On a GPU the denoiser's steps run as CUDA graphs, too, which are
captured in the second call.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from harness import (
    add_device,
    add_precisions,
    added_peak_mib,
    chosen_device,
    has_bf16,
    interleaved,
    product_rate,
    return_freed_memory,
    timed,
)

from benchmarks.graph_counts import CountedCall, counted_graphs, graph_fault
from benchmarks.ladder import Rung, announce, end_with, print_ladder, speedups
from benchmarks.paper_models import CONFIGS
from benchmarks.remedies import REMEDIES, Lent, Remedies
from benchmarks.training_models import STAGES, STEPS, OneProcess, TrainingSetup
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.malloc_settings import keep_freed_memory
from ld4lg_fast.training.profiling import counted_operations
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.train_step import TrainStep

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PAPER_TEXTS = {"autoencoder": 50_000 * 256, "diffusion": 250_000 * 128}
PAPER_BATCH = {"autoencoder": 256, "diffusion": 128}
COLUMNS = (
    *("name", "stage", "batch", "samples_per_s", "steps_per_s", "speedup_vs_published"),
    *("speedup_vs_remedies", "mfu", "added_peak_mib", "first_call_s", "paper_hours"),
)


class Ladder:
    """All rungs of one stage. The published ones share weights and optimiser: their values do not matter here."""

    def __init__(self, config: str, stage: str, batch: int, device: str) -> None:
        self.setup = TrainingSetup(config, stage, batch, device)
        self.stage, self.batch, self.device = stage, batch, device
        self.train_step = self._make_train_step()
        self.steps_done = 0
        self.errors: list[str] = []

    def _make_train_step(self, cuda_graph: bool = False) -> TrainStep:
        device, options = torch.device(self.device), replace(self.setup.options, cuda_graph=cuda_graph)
        processes = OneProcess(device, Remedies().precision(self.device))
        session = Session(processes, None, options, 0, None, Interrupts(), None)
        return TrainStep(self.setup.stage(session), session)

    def rungs(self, precisions: list[str], with_compile: bool) -> list[Rung]:
        found = [Rung("published", "fp32", False, self._published(Remedies()))]
        for precision in precisions:
            for name, remedies in REMEDIES[precision].items():
                if remedies.compile and not with_compile:
                    continue
                found.append(Rung(f"published + {name}", precision, False, self._published(remedies)))
        for precision in precisions:
            found.append(Rung(f"ours, {precision}", precision, True, self._ours(precision, self.train_step)))
            if (self.device, self.stage) == ("cuda", "diffusion"):
                run = self._ours(precision, self._make_train_step(cuda_graph=True))
                found.append(Rung(f"ours, {precision}, graph", precision, True, run))
        return found

    def _published(self, remedies: Remedies) -> Callable[[], None]:
        padded = self.stage == "diffusion" and self.setup.perceiver is None
        lent = Lent(remedies, self.setup.network, padded)

        def run() -> None:
            self.setup.lm.set_attn_implementation("sdpa" if remedies.sdpa else "eager")
            with lent, remedies.precision(self.device):
                self.setup.published_steps()

        return run

    def _ours(self, precision: str, train_step: TrainStep) -> Callable[[], None]:
        context = Remedies(autocast=precision == "bf16").precision(self.device)

        def run() -> None:
            session = train_step.session
            session.accelerator = replace(session.accelerator, precision=context)
            self.setup.lm.set_attn_implementation("sdpa")
            with gpu_settings(session.device):
                for _ in range(STEPS):
                    train_step(self.steps_done, 1e-6)
                    self.steps_done += 1

        return run

    def use_memory_as(self, rung: Rung) -> None:
        """On a CPU our training command keeps what it frees, and the published loop does not."""
        if self.device == "cpu":
            keep_freed_memory() if rung.ours else return_freed_memory()

    def take_turn(self, rung: Rung) -> None:
        """Changing over gave all freed memory back, so ours goes on from an untimed call."""
        self.use_memory_as(rung)
        if rung.ours and self.device == "cpu":
            rung.run()

    def flops(self) -> int:
        """Of `STEPS` of our steps."""
        with counted_operations() as counter:
            self._ours("fp32", self.train_step)()
        return counter.get_total_flops()

    def measure(self, rungs: list[Rung], rounds: int, rates: dict[str, float]) -> list[dict]:
        """One row a rung; a graph that is not replayed is an error, and its rung has no row."""
        with counted_graphs() as counts:
            for rung in rungs:
                rung.run = CountedCall(rung.run, counts)
            return self._measure(rungs, rounds, rates)

    def _measure(self, rungs: list[Rung], rounds: int, rates: dict[str, float]) -> list[dict]:
        flops = self.flops()
        first, peaks = {}, {}
        for rung in rungs:
            self.use_memory_as(rung)
            announce(rung)
            first[rung.name], _ = timed(rung.run, self.device)
            peaks[rung.name] = added_peak_mib(rung.run, self.device)
            print(f"{self.stage}, {rung.name}: first call {first[rung.name]:.1f} s", flush=True)
        named = {rung.name: rung for rung in rungs}
        functions = {name: rung.run for name, rung in named.items()}
        timings = interleaved(
            functions, self.device, rounds, 0, before=lambda name: self.take_turn(named[name])
        )
        gains = speedups(rungs, {name: timing.median for name, timing in timings.items()})
        rows = []
        for rung in rungs:
            if rung.name.endswith(", graph") and (fault := graph_fault(rung.name, rung.run.last, 0, STEPS)):
                self.errors.append(f"{self.stage}, {fault}")
                continue
            timing = timings[rung.name]
            speed = STEPS * self.batch / timing.median
            rows.append(
                {
                    "name": rung.name,
                    "stage": self.stage,
                    "precision": rung.precision,
                    "batch": self.batch,
                    "samples_per_s": speed,
                    "samples_per_s_p20": STEPS * self.batch / timing.p80,
                    "samples_per_s_p80": STEPS * self.batch / timing.p20,
                    "steps_per_s": STEPS / timing.median,
                    **gains[rung.name],
                    "mfu": flops / timing.median / rates[rung.precision],
                    "added_peak_mib": peaks[rung.name],
                    "graph_captures": rung.run.last.captures,
                    "graph_replays": rung.run.last.replays,
                    "first_call_s": first[rung.name],
                    "paper_hours": PAPER_TEXTS[self.stage] / speed / 3600,
                }
            )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CONFIGS, default="paper-v2")
    parser.add_argument("--stage", choices=(*STAGES, "both"), default="both")
    add_device(parser)
    parser.add_argument("--batch-size", type=int, help="texts a step (default 8; on a GPU the paper's)")
    add_precisions(parser, DTYPES, "default fp32, and bf16 where the processor has it")
    parser.add_argument(
        "--without-compile", action="store_true", help="leave out the rungs that take minutes to compile"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument(
        "--json", type=Path, help="where to write the result; a table and a plot come beside it"
    )
    options = parser.parse_args()
    device = chosen_device(parser, options)
    stages = STAGES if options.stage == "both" else (options.stage,)
    if options.config == "paper-v1" and "autoencoder" in stages:
        if options.stage == "autoencoder":
            parser.error("recipe v1 trains no autoencoder; use --stage diffusion")
        print("recipe v1 trains no autoencoder: diffusion alone is measured")
        stages = ("diffusion",)
    precisions = options.precisions or ["fp32", *["bf16"] * has_bf16(device)]
    rates = {name: product_rate(device, DTYPES[name]) for name in {"fp32", *precisions}}
    rungs, errors = [], []
    for stage in stages:
        batch = options.batch_size or (PAPER_BATCH[stage] if device == "cuda" else 8)
        ladder = Ladder(options.config, stage, batch, device)
        rungs += ladder.measure(ladder.rungs(precisions, not options.without_compile), options.rounds, rates)
        errors += ladder.errors
    print_ladder(rungs, COLUMNS, f"training, {options.config}, {device}")
    result = {"config": options.config, "rungs": rungs, "errors": errors}
    end_with(result, COLUMNS, rates, device, options.json)


if __name__ == "__main__":
    main()
