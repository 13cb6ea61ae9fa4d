"""The loop that both stages share: steps, learning rate, averaging, logging, checkpoints, interruption."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from ld4lg_fast.console import console
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.clock import StageClock
from ld4lg_fast.training.curves import draw_curves
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.interrupts import Interrupted
from ld4lg_fast.training.learner import Learner, Part
from ld4lg_fast.training.optimization import learning_rate
from ld4lg_fast.training.options import StageOptions
from ld4lg_fast.training.profiling import Profile
from ld4lg_fast.training.progress import StageProgress
from ld4lg_fast.training.randomness import StepBatches
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.weights import write_json

BETWEEN_CURVES = 60.0  # seconds


class DivergedError(LD4LGError):
    """The loss or the gradient is no longer a finite number."""


class Stage(Protocol):
    """What a stage tells the loop.

    ``module`` is called for the loss, ``trained`` is the part of it that learns and that checkpoints hold;
    ``ema`` follows ``trained``, or is None. ``skipped``: the parameters of ``module`` that some steps leave without
    gradient, the same in all processes.
    ``has_fixed_shapes``: there are few kinds of batches, of nothing but tensors and coins, as CUDA graphs need.
    """

    name: str
    options: StageOptions
    module: nn.Module
    trained: nn.Module
    ema: Ema | None
    skipped: Sequence[str]
    has_fixed_shapes: bool
    batches: StepBatches

    def batch(self, step: int, part: Part) -> object:
        """What ``part`` of the batch of ``step`` consists of, on the device."""

    def loss(self, model: nn.Module, batch: object) -> Tensor:
        """Its loss; ``model`` is ``module``, perhaps wrapped. The mean over all parts is the whole batch's."""

    def validate(self, step: int) -> None:
        """Measures with all processes, prints and logs; called in each of them."""


class TrainingLoop:
    """Trains one stage from its last checkpoint, or from the start, to its end.

    Args:
        clock: the stage's share of the run's time; its start is taken from the checkpoint where there is one.
    """

    def __init__(self, stage: Stage, session: Session, clock: StageClock) -> None:
        self.stage, self.session, self.clock = stage, session, clock
        self.options = stage.options
        self.store = CheckpointStore(session.run.checkpoints(stage.name))
        self.state = TrainingState(stage_start=clock.start)
        self._window: list[Tensor] = []
        self._window_start = 0.0
        self._drawn = time.perf_counter()

    def run(self) -> TrainingState:
        """Trains; afterwards the stage has been validated and its last checkpoint written.

        Raises:
            DivergedError: a loss or gradient that is not finite; the last good checkpoint stays.
            Interrupted: Ctrl-C or SIGTERM, after a checkpoint was written.
            CheckpointError: the checkpoint to go on from is damaged or of another shape.
        """
        stage, session = self.stage, self.session
        if session.accelerator.is_main_process:
            self.store.sweep()
        restored, tensors = self.store.restore(stage.trained, stage.ema)
        self.learner = Learner(stage, session)
        if restored is not None:
            self.learner.load_optimizer_tensors(tensors)
            self.state = restored
            self.clock.start = restored.stage_start
            console.print(f"The {stage.name} stage goes on after step {restored.step}.", highlight=False)
        session.journal.forget_after(stage.name, self.state.step)
        if session.options.profile:
            dtype = torch.bfloat16 if session.options.precision == "bf16" else torch.float32
            samples = self.options.batch_size // session.world_size
            self.learner.profile = Profile(stage.name, samples, session.device, dtype)
        stage.module.train()
        self.learner.model.train()
        time_progress, stop = self._agree()
        with StageProgress(stage.name, self.options.steps) as self._progress:
            self._window_start = time.perf_counter()
            while not stop and (self.state.step == 0 or self._share(time_progress) < 1):
                rate = self._step(self._share(time_progress))
                if session.world_size == 1 or self.state.step % session.options.log_every == 0:
                    time_progress, stop = self._agree()
                ended = self._share(time_progress) >= 1
                if self.state.step % session.options.log_every == 0 or ended or stop:
                    self._log(rate, self._share(time_progress))
                if not ended and not stop:
                    self._save_and_validate_in_time()
        if self.learner.profile is not None:
            self.learner.profile.abandon()
            console.print(
                f"The {stage.name} stage was too short for a profile, which takes {Profile.STEPS} steps."
            )
        path = self._save()
        if stop:
            console.print(f"Stopped after step {self.state.step} of the {stage.name} stage, saved in {path}.")
            raise Interrupted(session.interrupts.received or stop)
        self._validate(is_last=True)
        return self.state

    def _share(self, time_progress: float) -> float:
        """How much of the stage is done, in steps or in time, whichever is further."""
        return max(self.state.step / self.options.steps, time_progress)

    def _agree(self) -> tuple[float, int]:
        """Time progress and a wish to stop (a signal's number or 0), the same in all processes."""
        progress, stop = self.clock.progress(), self.session.interrupts.received or 0
        if self.session.world_size > 1:
            largest = torch.tensor([progress, stop], dtype=torch.float64, device=self.session.device)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
            progress, stop = largest[0].item(), int(largest[1].item())
        return progress, stop

    def _step(self, share: float) -> float:
        """One step of the optimiser; returns its learning rate."""
        learner, rate = self.learner, learning_rate(self.options, self.state.step, share)
        with nullcontext() if learner.profile is None else learner.profile.step():
            self._window.append(learner.step(self.state.step, rate))
        if learner.profile is not None and learner.profile.is_over:
            if self.session.accelerator.is_main_process:
                console.print(f"Profile: {learner.profile.write(self.session.run.log.parent)}")
            learner.profile = None
        self.state.step += 1
        return rate

    def _log(self, rate: float, share: float) -> None:
        """Reads the losses since the last call, which waits for the device, and checks that they are finite."""
        if not self._window:
            return
        stage, session, count = self.stage, self.session, len(self._window)
        values = torch.stack(self._window)
        values = session.accelerator.reduce(values, "mean").tolist()
        self._window.clear()
        for index, pair in enumerate(values):
            if not all(map(math.isfinite, pair)):
                self._diverged(self.state.step - count + index + 1, pair[0])
        loss, norm = values[-1]
        speed = count * self.options.batch_size / (time.perf_counter() - self._window_start)
        session.journal.write(
            stage.name,
            self.state.step,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            samples_per_second=round(speed, 1),
            seconds=round(session.clock.seconds(), 2),
        )
        self._progress.update(share, self.state.step, loss, speed)
        self._window_start = time.perf_counter()

    def _diverged(self, step: int, loss: float) -> None:
        saved = self.store.steps()
        kept = (
            f"the last good checkpoint is {self.store.path(saved[-1])}"
            if saved
            else "no checkpoint was written yet"
        )
        what = "gradient" if math.isfinite(loss) else "loss"
        batch = self.session.run.log.with_name(f"diverged_{self.stage.name}.json")
        if self.session.accelerator.is_main_process:
            write_json(batch, {"stage": self.stage.name, "step": step, "texts": self.stage.batches[step - 1]})
        raise DivergedError(
            f"The {what} of step {step} of the {self.stage.name} stage is not finite; {kept}; {batch} lists "
            f"the texts of its batch; try a train.{self.stage.name}.learning_rate below "
            f"{self.options.learning_rate:g}."
        )

    def _save_and_validate_in_time(self) -> None:
        step, options = self.state.step, self.session.options
        if step % options.checkpoint_every == 0:
            self._save()
            self._window_start = time.perf_counter()
        if step % options.validate_every == 0:
            self._validate()
            self._window_start = time.perf_counter()

    def _save(self):
        # Unread losses might not be finite, and such a state must not replace a good one.
        if self._window:
            self._log(float(self.learner.optimizer.param_groups[0]["lr"]), self._share(0.0))
        self.state.run_seconds = self.session.clock.seconds()
        stage, tensors = self.stage, self.learner.optimizer_tensors()
        self.learner.gather()
        on_main(
            self.session.accelerator, lambda: self.store.save(self.state, stage.trained, stage.ema, tensors)
        )
        return self.store.path(self.state.step)

    def _validate(self, is_last: bool = False) -> None:
        self.learner.gather()
        self.stage.validate(self.state.step)
        is_due = is_last or time.perf_counter() - self._drawn > BETWEEN_CURVES
        if is_due and self.session.accelerator.is_main_process:
            draw_curves(self.session.run.log, self.session.run.curves)
            self._drawn = time.perf_counter()
        self.stage.module.train()
