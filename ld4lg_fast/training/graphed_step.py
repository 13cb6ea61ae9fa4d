"""The denoiser's training step as CUDA graphs: captured once, then replayed without Python and launch overhead."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils import _pytree as pytree

from ld4lg_fast.diffusion.process import TrainingDraws
from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.training.train_section import TrainOptions

pytree.register_dataclass(TrainingDraws)  # so that its tensors are leaves of the batch


def check_capture(processes: Accelerator, options: TrainOptions, adaptive_schedule: bool) -> None:
    """Checks that the denoiser's steps can be captured, for ``train.cuda_graph=true``.

    Raises:
        ConfigError: no GPU, several processes or micro-batches, an adaptive schedule, or distillation.
    """
    name, device = "train.cuda_graph=true", processes.device.type
    if device != "cuda":
        raise ConfigError(f"{name} needs a GPU, not {device}; leave it out.")
    parts = options.diffusion.micro_batches
    if processes.num_processes > 1 or parts > 1:
        raise ConfigError(
            f"{name} needs one process and one micro-batch, not {processes.num_processes} and {parts}; leave it out."
        )
    if adaptive_schedule or options.distill_from is not None:
        other = (
            "recipe.adaptive_schedule=true"
            if adaptive_schedule
            else f"train.distill_from={options.distill_from}"
        )
        raise ConfigError(f"{name} does not go together with {other}; leave it out.")


@dataclass
class _Captured:
    """Input and output buffers of one graph, and the function that replays it."""

    batch: object
    figures: Tensor = field(default_factory=lambda: torch.empty(0))
    replay: Callable[[], None] = lambda: None


class CapturedStep:
    """Runs ``advance`` as CUDA graphs, one for each kind of batch (tensor shapes and dtypes, other values).

    The first batch of a kind runs eagerly, which compiles its kernels and creates the optimiser's state; the second is
    captured.

    Args:
        advance: one training step on a batch. Whatever else changes from step to step, it must read from tensors.
    """

    def __init__(self, advance: Callable[[object], Tensor]) -> None:
        self.advance = advance
        self.capture = cuda_graphs.Capture()
        self.kinds: dict[object, _Captured | None] = {}

    def __call__(self, batch: object) -> Tensor:
        """Result of ``advance`` on the batch."""
        leaves, structure = pytree.tree_flatten(batch)
        kind = structure, *((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if kind not in self.kinds:
            self.kinds[kind] = None
            return self.advance(batch)
        known = self.kinds[kind]
        if known is None:
            known = self.kinds[kind] = self._capture(batch)
        for buffer, leaf in zip(pytree.tree_leaves(known.batch), leaves, strict=True):
            if isinstance(leaf, Tensor):
                buffer.copy_(leaf)
        known.replay()
        return known.figures.clone()

    def _capture(self, batch: object) -> _Captured:
        known = _Captured(pytree.tree_map_only(Tensor, torch.clone, batch))

        def run() -> None:
            known.figures = self.advance(known.batch)

        known.replay = self.capture(run)
        return known
