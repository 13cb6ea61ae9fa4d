"""The length of a text as a linear function of its latents, towards which sampling can be led.

Letters: B texts, N latent positions, d latent width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, as multiples of the mean variance times the texts
FEWEST_TEXTS = 20
HELD_OUT = 5  # every so-manieth text chooses the penalty


@dataclass(frozen=True)
class LengthGuide:
    """Tokens of a text ≈ ``(latents · weight).sum() + bias``, special tokens not counted (Hoerl & Kennard 1970).

    ``weight`` (N, d) float32 belongs to normalised latents; ``error`` is the root mean square error in tokens on texts
    that the fit did not see.
    """

    weight: Tensor
    bias: float
    error: float

    @classmethod
    def fit(cls, latents: Tensor, lengths: Tensor) -> "LengthGuide":
        """From normalised latents (B, N, d) and the lengths (B,) of their texts.

        Raises:
            ConfigError: fewer than 20 texts, or all of one length.
        """
        if len(latents) < FEWEST_TEXTS:
            raise ConfigError(
                f"{len(latents)} texts tell too little of lengths; give at least {FEWEST_TEXTS}."
            )
        if lengths.unique().numel() == 1:
            raise ConfigError(
                f"All texts are {lengths[0].item():g} tokens long; give texts of several lengths."
            )
        x, y = latents.double().flatten(1), lengths.double()
        held_out = torch.arange(len(x), device=x.device) % HELD_OUT == 0
        errors = {}
        for penalty in PENALTIES:
            weight, bias = _ridge(x[~held_out], y[~held_out], penalty)
            errors[penalty] = (x[held_out] @ weight + bias - y[held_out]).square().mean().sqrt().item()
        best = min(errors, key=errors.__getitem__)
        weight, bias = _ridge(x, y, best)
        return cls(weight.float().reshape(latents.shape[1:]), bias, errors[best])

    def to(self, device: torch.device) -> "LengthGuide":
        """This one, its weight on a device."""
        return replace(self, weight=self.weight.to(device))

    def lengths(self, latents: Tensor) -> Tensor:
        """Tokens (B,) that normalised latents (B, N, d) will have."""
        return (latents * self.weight).sum(dim=(1, 2)) + self.bias

    def steer(self, latents: Tensor, length: float, pull: float = 1.0) -> Tensor:
        """Normalised latents (B, N, d), moved the share ``pull`` of the shortest way to those of so many tokens.

        The way is along the gradient of `lengths`, which is ``weight`` everywhere.
        """
        missing = pull * (length - self.lengths(latents))
        return latents + missing[:, None, None] * self.weight / self.weight.square().sum()


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Weights (features,) and intercept of the regression of y (B,) on x (B, features)."""
    mean, centre = x.mean(dim=0), y.mean()
    inner = (x - mean).T @ (x - mean)
    inner.diagonal().add_(penalty * inner.diagonal().mean())
    weight = torch.linalg.solve(inner, (x - mean).T @ (y - centre))
    return weight, (centre - mean @ weight).item()
