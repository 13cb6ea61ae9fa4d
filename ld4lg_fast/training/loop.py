"""The training loop of all stages: steps, learning rate, EMA, logging, checkpoints, interruption."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.progress import StageProgress
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.curves import draw_curves
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.interrupts import Interrupted
from ld4lg_fast.training.optimization import learning_rate
from ld4lg_fast.training.profiling import Profile
from ld4lg_fast.training.seeding import StepBatches
from ld4lg_fast.training.session import Session, on_main
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.train_section import StageOptions, too_few_steps
from ld4lg_fast.training.train_step import Part, TrainStep

BETWEEN_CURVES = 60.0  # seconds


class DivergedError(LD4LGError):
    """The loss or the gradient is not finite."""


class Stage(Protocol):
    """Interface between a stage and the loop.

    ``module`` computes the loss; ``trained`` is the part of it that is trained and stored in checkpoints; ``ema`` is
    the EMA of ``trained``, or None. ``skipped``: parameters of ``module`` that get no gradient in some steps, the same
    in all processes. ``has_fixed_shapes``: batches have few distinct shapes, as CUDA graphs need.
    """

    name: str
    options: StageOptions
    has_fixed_shapes: bool
    batches: StepBatches

    @property
    def module(self) -> nn.Module: ...

    @property
    def trained(self) -> nn.Module: ...

    @property
    def ema(self) -> Ema[nn.Module] | None: ...

    @property
    def skipped(self) -> Sequence[str]: ...

    def batch(self, step: int, part: Part) -> Any:
        """``part`` of the batch of ``step``, on the device."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Loss of a part; ``model`` is ``module`` or its wrapper. Averaged over all parts it is the batch's loss."""

    def validate(self, step: int) -> None:
        """Validates, prints and logs; called in all processes."""


class TrainingLoop:
    """Trains one stage, from its last checkpoint if there is one.

    Args:
        clock: the stage's share of the run's time; a checkpoint's start time replaces its own.
    """

    def __init__(self, stage: Stage, session: Session, clock: StageClock) -> None:
        self.stage, self.session, self.clock = stage, session, clock
        self.options = stage.options
        self.store = CheckpointStore(session.run.checkpoints(stage.name), has_ema=stage.ema is not None)
        self.state = TrainingState()
        self._window: list[Tensor] = []
        self._rates: list[float] = []  # of the window
        self._window_start = 0.0
        self._drawn = time.perf_counter()

    def run(self) -> TrainingState:
        """Trains, writes the last checkpoint and validates.

        Raises:
            DivergedError: a loss or gradient is not finite; the last checkpoint stays.
            Interrupted: a signal was received; a checkpoint is written first.
            CheckpointError: the checkpoint to resume from is damaged or does not fit the model.
        """
        stage, session = self.stage, self.session
        on_main(session.accelerator, self._tidy)
        restored, tensors = self.store.restore(stage.trained, stage.ema)
        self.train_step = TrainStep(stage, session)
        if restored is not None and tensors is not None:
            self.train_step.load_optimizer_tensors(tensors)
            self.state = restored
            console.print(f"The {stage.name} stage goes on after step {restored.step}.")
        else:
            self.state.stage_start = session.clock.seconds()
        self.clock.start = self.state.stage_start
        session.metrics_log.forget_after(stage.name, self.state.step)
        session.record.begin(stage.name, self.state.step)
        if session.options.profile:
            dtype = torch.bfloat16 if session.options.precision == "bf16" else torch.float32
            samples = self.options.batch_size // session.world_size
            self.train_step.profile = Profile(stage.name, samples, session.device, dtype)
        stage.module.train()
        self.train_step.model.train()
        time_progress, stop = self._agree()
        with StageProgress(stage.name, self.options.steps) as self._progress:
            if restored is not None and not stop and self._share(time_progress) < 1:
                stop = self._validate_in_time()  # if the previous session was stopped before it
            self._window_start = time.perf_counter()
            while not stop and (self.state.step == 0 or self._share(time_progress) < 1):
                rate = self._step(time_progress)
                is_logged = self.state.step % session.options.log_every == 0
                if session.world_size == 1 or is_logged:
                    time_progress, stop = self._agree()
                ended = self._share(time_progress) >= 1
                if is_logged or ended:
                    self._log(rate, self._share(time_progress))
                if not ended and not stop:
                    stop = self._save_and_validate_in_time()
        if self.train_step.profile is not None:
            self.train_step.profile.abandon()
            console.print(
                f"The {stage.name} stage was too short for a profile, which takes {Profile.STEPS} steps."
            )
        path = self._save(is_logged=not stop)
        if stop:
            console.print(f"Stopped after step {self.state.step} of the {stage.name} stage, saved in {path}.")
            raise Interrupted(session.interrupts.received or stop)
        self._validate(is_last=True)
        warning = too_few_steps(stage.name, self.state.step, self.options, session.options.max_minutes)
        session.metrics_log.write(stage.name, self.state.step, finished=warning is None, warning=warning)
        return self.state

    def _tidy(self) -> None:
        self.store.set_damaged_aside()
        self.store.sweep()

    def _share(self, time_progress: float) -> float:
        """Fraction of the stage that is done, in steps or in time, whichever is larger."""
        return max(self.state.step / self.options.steps, time_progress)

    def _agree(self) -> tuple[float, int]:
        """Time progress and the received signal's number (or 0), the same in all processes."""
        progress, stop = self.clock.progress(), self.session.interrupts.received or 0
        if self.session.world_size > 1:
            largest = torch.tensor([progress, stop], dtype=torch.float64, device=self.session.device)
            torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
            progress, stop = largest[0].item(), int(largest[1].item())
        return progress, stop

    def _step(self, time_progress: float) -> float:
        """One step of the optimiser; returns its learning rate."""
        train_step, share = self.train_step, self._share(time_progress)
        rate = learning_rate(self.options, self.state.step, share, time_progress)
        rate = self.session.record.rate(self.stage.name, self.state.step, rate)
        self._rates.append(rate)
        with nullcontext() if train_step.profile is None else train_step.profile.step():
            self._window.append(train_step(self.state.step, rate))
        if train_step.profile is not None and train_step.profile.is_over:
            if self.session.accelerator.is_main_process:
                console.print(f"Profile: {train_step.profile.write(self.session.run.log.parent)}")
            train_step.profile = None
        self.state.step += 1
        return rate

    def _log(self, rate: float, share: float) -> None:
        if not self._window:
            return
        stage, count = self.stage, len(self._window)
        loss, norm = self._read()
        speed = count * self.options.batch_size / (time.perf_counter() - self._window_start)
        self.session.metrics_log.write(
            stage.name,
            self.state.step,
            loss=loss,
            lr=rate,
            grad_norm=norm,
            samples_per_second=round(speed, 1),
            seconds=round(self.session.clock.seconds(), 2),
        )
        self._progress.update(share, self.state.step, loss, speed)
        self._window_start = time.perf_counter()

    def _read(self) -> tuple[float, float]:
        """Loss and gradient norm of the last step; waits for the device and checks all steps since the last call."""
        count, values = len(self._window), torch.stack(self._window)
        values = self.session.accelerator.reduce(values, "mean").tolist()
        self._window.clear()
        rates, self._rates = self._rates, []
        for index, pair in enumerate(values):
            if not all(map(math.isfinite, pair)):
                self._diverged(self.state.step - count + index + 1, pair[0])
        losses = [loss for loss, _ in values]
        self.session.record.add(self.stage.name, self.state.step - count, rates, losses)
        return values[-1]

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

    def _save_and_validate_in_time(self) -> int:
        """Saves and validates if this step is due for it; returns the number of an interrupting signal, or 0."""
        if self.state.step % self.session.options.checkpoint_every == 0:
            self._save(is_logged=True)
            self._window_start = time.perf_counter()
        return self._validate_in_time()

    def _validate_in_time(self) -> int:
        if self.state.step % self.session.options.validate_every:
            return 0
        try:
            self._validate()
        except Interrupted as stopped:  # the next session repeats it
            return stopped.number
        finally:
            self._window_start = time.perf_counter()
        return 0

    def _save(self, is_logged: bool) -> Path:
        """Writes a checkpoint, after a check that the losses since the last read are finite."""
        if self._window and is_logged:
            self._log(float(self.train_step.optimizer.param_groups[0]["lr"]), self._share(0.0))
        elif self._window:
            self._read()
        self.state.run_seconds = self.session.clock.seconds()
        stage, tensors = self.stage, self.train_step.optimizer_tensors()
        self.train_step.gather()
        on_main(
            self.session.accelerator, lambda: self.store.save(self.state, stage.trained, stage.ema, tensors)
        )
        return self.store.path(self.state.step)

    def _validate(self, is_last: bool = False) -> None:
        """Validates, unless an earlier session already did at this step."""
        session, stage, step = self.session, self.stage, self.state.step
        if not on_main(
            session.accelerator, lambda: session.metrics_log.has(stage.name, step, "validation_loss")
        ):
            self.train_step.gather()
            stage.validate(step)
        is_due = is_last or time.perf_counter() - self._drawn > BETWEEN_CURVES
        if is_due and session.accelerator.is_main_process:
            draw_curves(session.run.log, session.run.curves)
            self._drawn = time.perf_counter()
        stage.module.train()
