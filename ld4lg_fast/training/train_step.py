"""One training step: forward and backward on this process's part of the batch, clipping, AdamW, EMA."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ld4lg_fast.engine.regional_compile import compile_regions, recompute_activations
from ld4lg_fast.training.graphed_step import CapturedStep
from ld4lg_fast.training.optimization import (
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_learning_rate,
)
from ld4lg_fast.training.profiling import Profile
from ld4lg_fast.training.seeding import step_seed
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.sharding import gather, sharded_twin, whole


@dataclass(frozen=True)
class Part:
    """Every ``count``-th item from ``index`` on: the part of one process or micro-batch."""

    index: int = 0
    count: int = 1

    def of(self, items: Any) -> Any:
        return items[self.index :: self.count]


class TrainStep:
    """Callable that makes one step of training ``stage.trained`` as part of ``stage.module``.

    With several processes the model is replicated (DDP), or sharded if Accelerate uses FSDP; ``stage.module`` is then
    up to date only after `gather`.
    """

    def __init__(self, stage: Any, session: Session) -> None:
        self.stage, self.session = stage, session
        self.parts = stage.options.micro_batches
        self.profile: Profile | None = None
        path = next(name for name, module in stage.module.named_modules() if module is stage.trained)
        self.is_sharded = session.world_size > 1 and session.shards_models
        plain = stage.module
        if self.is_sharded:
            plain = sharded_twin(stage.module, session.device, session.world_size)
        if session.options.activation_checkpointing:
            recompute_activations(plain)
        if session.options.compiles(session.device):
            compile_regions(plain)
        self.trained = plain.get_submodule(path)
        if stage.ema is not None:
            stage.ema.follow(self.trained)
        is_captured = session.options.cuda_graph and stage.has_fixed_shapes
        self.optimizer = make_optimizer(self.trained, stage.options, is_captured)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.model: nn.Module = plain
        self.skipped: list[nn.Parameter] = []
        if session.world_size > 1 and not self.is_sharded:
            # DDP's own search for unused parameters would synchronise with the device at every step.
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(plain, list(stage.skipped))
            self.skipped = [plain.get_parameter(name) for name in stage.skipped]
            self.model = DistributedDataParallel(
                plain, device_ids=[session.device.index] if session.device.type == "cuda" else None
            )
        self.captured: CapturedStep | None = None
        self.share: float | Tensor = 0.0  # weight of the model in the EMA after this step
        if is_captured:
            self.captured = CapturedStep(lambda batch: self._update(self._backward(batch)))
            self.share = torch.zeros((), device=session.device)

    def __call__(self, step: int, rate: float) -> Tensor:
        """Loss and gradient norm of ``step`` (2,) float32, on the device.

        The loss is that of this process's part of the batch; its mean over the processes is the batch's.
        """
        stage = self.stage
        set_learning_rate(self.optimizer, rate)
        if stage.ema is not None:
            share = 1 - stage.ema.decay(step)
            self.share = self.share.fill_(share) if isinstance(self.share, Tensor) else share
        # A graph has no phases to profile.
        captured = self.captured if self.profile is None else None
        loss = torch.zeros((), device=self.session.device)
        for number in range(self.parts):
            part = Part(self.session.rank + self.session.world_size * number, self._num_parts)
            # Dropout differs between the parts of a batch and is the same after resuming.
            torch.manual_seed(step_seed(self.session.seed, stage.name, step) + part.index)
            with self._phase("data"):
                batch = stage.batch(step, part)
            if captured is not None:
                return captured(batch)
            with self._synchronized(last=number + 1 == self.parts):
                loss += self._backward(batch)
        for parameter in self.skipped:
            if parameter.grad is not None:
                parameter.grad = self.session.accelerator.reduce(parameter.grad, "mean")
        return self._update(loss)

    def _backward(self, batch: object) -> Tensor:
        """Adds the gradients of a part of the batch; returns its share of the loss ()."""
        with self._phase("forward"), self.session.accelerator.autocast():
            share = self.stage.loss(self.model, batch) / self.parts
        with self._phase("backward"):
            share.backward()
        return share.detach()

    def _update(self, loss: Tensor) -> Tensor:
        """Clips gradients and updates parameters and EMA; returns loss and gradient norm (2,)."""
        with self._phase("optimiser"):
            clip_norm = self.stage.options.clip_norm
            norm = whole(nn.utils.clip_grad_norm_(self.parameters, clip_norm, foreach=True))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.stage.ema is not None:
                self.stage.ema.update(self.share)
        return torch.stack([loss.float(), norm.detach().float()])

    @property
    def _num_parts(self) -> int:
        return self.session.world_size * self.parts

    def _phase(self, name: str) -> AbstractContextManager:
        return nullcontext() if self.profile is None else self.profile.phase(name)

    def _synchronized(self, last: bool) -> AbstractContextManager:
        """Skips DDP's gradient all-reduce for all but the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def gather(self) -> None:
        """Updates ``stage.module`` and the EMA from the shards; call in all processes."""
        if self.is_sharded:
            gather(self.trained, self.stage.trained)
            if self.stage.ema is not None:
                self.stage.ema.gather()

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """See `optimization.optimizer_tensors`."""
        return optimizer_tensors(self.optimizer, self.trained)

    def load_optimizer_tensors(self, tensors: dict[str, Tensor]) -> None:
        """See `optimization.load_optimizer_tensors`."""
        load_optimizer_tensors(self.optimizer, self.trained, tensors)
