"""`Denoiser`: the interface and the checks that the denoisers of all recipes share.

Letters: B batch, N latent positions, M context positions, d latent width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.attention_backends import AttentionModule
from ld4lg_fast.models.context_encoder import BlockStates
from ld4lg_fast.models.layers import DIM_HEAD, Modulation


class ConditionArguments(TypedDict, total=False):
    """What a batch is conditioned on; each is None where a batch has none.

    Args:
        mask: (B, N) bool, True = keep; None when all positions are real.
        class_id: (B,) long in [0, num_classes].
        context: (B, M, dim_context), states of a source text; in training those of the blocks before.
        context_mask: (B, M) as ``mask``.
    """

    mask: Tensor | None
    class_id: Tensor | None
    context: Tensor | BlockStates | None
    context_mask: Tensor | None


class DenoiserSizes:
    """What the configs of all denoisers have in common."""

    dim: int
    heads: int | None
    num_classes: int
    self_condition: bool

    def __post_init__(self) -> None:
        if self.heads is None and (self.dim < DIM_HEAD or self.dim % DIM_HEAD):
            raise ConfigError(f"Denoiser width {self.dim} must be a positive multiple of {DIM_HEAD}.")

    @property
    def null_class(self) -> int | None:
        return self.num_classes or None


class Denoiser(AttentionModule, ABC):
    """A network that predicts noise, x_start, v or flow from noised latents.

    `forward` evaluates it once. A sampler calls the parts: `modulate` for all steps at once, `conditions` once for a
    batch, and in every step `run_blocks` on `network_input`.
    """

    config: DenoiserSizes

    @abstractmethod
    def modulate(self, time: Tensor, class_id: Tensor | None = None) -> Modulation:
        """The part that depends on time (B,) and, in recipe v2, on the class."""

    @abstractmethod
    def network_input(self, z_t: Tensor, x_self_cond: Tensor | None) -> Tensor:
        """The input of `run_blocks`: (B, N, d), or (B, N, 2d) with a self-condition."""

    @abstractmethod
    def conditions(
        self, shape: Sequence[int], *, guided: bool = False, **given: Unpack[ConditionArguments]
    ) -> Any:
        """What all evaluations of a batch of ``shape`` (B, N) share besides time.

        Under guidance ``class_id`` has 2B ids.
        """

    @abstractmethod
    def run_blocks(self, inputs: Tensor, modulation: Modulation, conditions: Any) -> Tensor:
        """`network_input` -> output (B, N, d), under guidance (2B, N, d)."""

    def forward(
        self,
        z_t: Tensor,
        time: Tensor,
        *,
        x_self_cond: Tensor | None = None,
        modulation: Modulation | None = None,
        conditions: Any = None,
        **given: Unpack[ConditionArguments],
    ) -> Tensor:
        """One evaluation of the network.

        Args:
            z_t: (B, N, d). time: (B,), in recipe v1 the integer step, else ``alpha_sq`` in [0, 1].
            x_self_cond: (B, N, d), the previous x_start; None uses the learned start vector.
            modulation: that of ``time`` and ``class_id`` if it has been computed already.
            conditions: those of ``given`` if they have been computed already.
            given: see `ConditionArguments`.

        Returns:
            (B, N, d) in the dtype of the weights (or of autocast).

        Raises:
            ConfigError: more positions than ``max_len``, a mask of another shape, or a condition that this
                model does not have (or needs and was not given).
        """
        if conditions is None:
            conditions = self.conditions(z_t.shape[:2], **given)
        if modulation is None:
            modulation = self.modulate(time, given.get("class_id"))
        return self.run_blocks(self.network_input(z_t, x_self_cond), modulation, conditions)

    def check_class(self, class_id: Tensor | None) -> None:
        """Refuses missing or superfluous class ids.

        Raises:
            ConfigError: a class-conditional model without ids, or ids given to an unconditional one.
        """
        if (class_id is not None) != bool(self.config.num_classes):
            raise ConfigError(
                f"This denoiser has {self.config.num_classes} classes; "
                + ("give class_id." if self.config.num_classes else "it takes no class_id.")
            )
