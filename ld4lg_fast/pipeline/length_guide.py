"""`LengthGuide`: predicts the length of a text from its latents linearly, and moves latents towards a length.

Letters: B texts, N latent positions, d latent width.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # ridge penalties, relative to the mean diagonal of XᵀX
FEWEST_TEXTS = 20
HELD_OUT = 5  # every fifth text is held out to choose the penalty


@dataclass(frozen=True)
class LengthGuide:
    """Tokens of a text ≈ ``(latents · weight).sum() + bias``, special tokens not counted (Hoerl & Kennard 1970).

    ``weight`` (N, d) float32, for normalised latents; ``error``: root mean square error in tokens on held-out texts.
    """

    weight: Tensor
    bias: float
    error: float

    @classmethod
    def fit(cls, latents: Tensor, lengths: Tensor) -> "LengthGuide":
        """Fits normalised latents (B, N, d) to the lengths (B,) of their texts.

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
        """A copy with its weight on a device."""
        return replace(self, weight=self.weight.to(device))

    def lengths(self, latents: Tensor) -> Tensor:
        """Predicted number of tokens (B,) of normalised latents (B, N, d)."""
        return (latents * self.weight).sum(dim=(1, 2)) + self.bias

    def steer(self, latents: Tensor, length: float, pull: float = 1.0) -> Tensor:
        """Moves normalised latents (B, N, d) along ``weight`` so that ``pull`` of their length error is corrected.

        ``weight`` is the gradient of `lengths`, so this is the shortest way.
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
