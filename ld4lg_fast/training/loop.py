"""The loop that both stages share: steps, learning rate, averaging, logging, checkpoints, interruption."""

import math
import time
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ld4lg_fast.console import console
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.clock import StageClock
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.interrupts import Interrupted
from ld4lg_fast.training.optimization import learning_rate, make_optimizer
from ld4lg_fast.training.options import StageOptions
from ld4lg_fast.training.progress import StageProgress
from ld4lg_fast.training.randomness import step_seed
from ld4lg_fast.training.session import Session


class DivergedError(LD4LGError):
    """The loss or the gradient is no longer a finite number."""


class Stage(Protocol):
    """What a stage tells the loop.

    ``module`` is called for the loss, ``trained`` is the part of it that learns and that checkpoints hold;
    ``ema`` follows ``trained``, or is None. ``skips_parameters``: some steps leave parameters without gradient.
    """

    name: str
    options: StageOptions
    module: nn.Module
    trained: nn.Module
    ema: Ema | None
    skips_parameters: bool

    def loss(self, model: nn.Module, step: int) -> Tensor:
        """The loss of this process's part of the batch of ``step``; ``model`` is ``module``, perhaps wrapped.

        Its mean over the processes is the loss of the whole batch.
        """

    def validate(self, step: int) -> None:
        """Measures, prints and logs; called in the main process alone."""


class TrainingLoop:
    """Trains one stage from its last checkpoint, or from the start, to its end.

    Args:
        clock: the stage's share of the run's time; its start is taken from the checkpoint where there is one.
    """

    def __init__(self, stage: Stage, session: Session, clock: StageClock) -> None:
        self.stage, self.session, self.clock = stage, session, clock
        self.options = stage.options
        self.store = CheckpointStore(session.run.checkpoints(stage.name))
        self.optimizer = make_optimizer(stage.trained, self.options)
        self.state = TrainingState(stage_start=clock.start)
        self._window: list[tuple[Tensor, Tensor]] = []
        self._window_start = 0.0

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
        restored = self.store.restore(stage.trained, stage.ema, self.optimizer)
        if restored is not None:
            self.state = restored
            self.clock.start = restored.stage_start
            console.print(f"The {stage.name} stage goes on after step {restored.step}.", highlight=False)
        session.journal.forget_after(stage.name, self.state.step)
        model = self._wrapped()
        stage.module.train()
        time_progress, stop = self._agree()
        with StageProgress(stage.name, self.options.steps) as self._progress:
            self._window_start = time.perf_counter()
            while not stop and (self.state.step == 0 or self._share(time_progress) < 1):
                rate = self._step(model, self._share(time_progress))
                if session.world_size == 1 or self.state.step % session.options.log_every == 0:
                    time_progress, stop = self._agree()
                ended = self._share(time_progress) >= 1
                if self.state.step % session.options.log_every == 0 or ended or stop:
                    self._log(rate, self._share(time_progress))
                if not ended and not stop:
                    self._save_and_validate_in_time()
        path = self._save()
        if stop:
            console.print(f"Stopped after step {self.state.step} of the {stage.name} stage, saved in {path}.")
            raise Interrupted(session.interrupts.received or stop)
        self._validate()
        return self.state

    def _wrapped(self) -> nn.Module:
        session, stage = self.session, self.stage
        if session.world_size == 1:
            return stage.module
        return DistributedDataParallel(
            stage.module,
            device_ids=[session.device.index] if session.device.type == "cuda" else None,
            find_unused_parameters=stage.skips_parameters,
        )

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

    def _step(self, model: nn.Module, share: float) -> float:
        """One step of the optimiser; returns its learning rate."""
        stage, options, step = self.stage, self.options, self.state.step
        rate = learning_rate(options, step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout differs between processes but not between a run and its resumption.
        torch.manual_seed(step_seed(self.session.seed, stage.name, step) + self.session.rank)
        with self.session.accelerator.autocast():
            loss = stage.loss(model, step)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, options.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if stage.ema is not None:
            stage.ema.update(step)
        self._window.append((loss.detach().float(), norm.detach().float()))
        self.state.step += 1
        return rate

    def _log(self, rate: float, share: float) -> None:
        """Reads the losses since the last call, which waits for the device, and checks that they are finite."""
        if not self._window:
            return
        stage, session, count = self.stage, self.session, len(self._window)
        values = torch.stack([torch.stack(pair) for pair in self._window])
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
        raise DivergedError(
            f"The {what} of step {step} of the {self.stage.name} stage is not finite; {kept}; "
            f"try a train.{self.stage.name}.learning_rate below {self.options.learning_rate:g}."
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
            self._log(self.optimizer.param_groups[0]["lr"], self._share(0.0))
        self.state.run_seconds = self.session.clock.seconds()
        if self.session.accelerator.is_main_process:
            self.store.save(self.state, self.stage.trained, self.stage.ema, self.optimizer)
        self.session.accelerator.wait_for_everyone()
        return self.store.path(self.state.step)

    def _validate(self) -> None:
        if self.session.accelerator.is_main_process:
            self.stage.validate(self.state.step)
        self.session.accelerator.wait_for_everyone()
        self.stage.module.train()
