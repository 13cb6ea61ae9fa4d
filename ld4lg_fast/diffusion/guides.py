"""Guides: what a text should be like, as a gradient on the predicted x_start.

Classifier guidance (Dhariwal & Nichol 2021) by a small network of the normalised x_start that the denoiser predicts at
any noise level: one hidden layer, modulated by the level, so that its gradient has a closed form.

Letters: B batch, N latent positions, d latent width, F features, H hidden width, C classes (1 of a number), K noise
levels, S sampling steps, G guides.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Guide:
    """``silu((features · hidden + hidden_bias) · (1 + scale) + shift) · output + output_bias``, logits or a number.

    Features are all F = N·d numbers of x_start; with F = d, of models whose texts have lengths, the mean of the real
    positions. All tensors are float32.

    Args:
        hidden, hidden_bias: (H, F) and (H,). output, output_bias: (C, H) and (C,).
        modulation: (K, 2, H), scale and shift at each noise level. log_snr: (K,), the levels, ascending.
        temperature: (K,), what logits are divided by; of a number the standard deviation of its errors.
        is_number: whether the output is a number, else logits.
    """

    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    modulation: Tensor
    log_snr: Tensor
    temperature: Tensor
    is_number: bool

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on a device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def on(self, log_snr: Tensor) -> Self:
        """The guide on other levels (S,), interpolated linearly and constant beyond the ends."""
        levels = log_snr.to(self.log_snr.device, torch.float64).contiguous()
        upper = torch.searchsorted(self.log_snr.double(), levels).clamp(max=len(self.log_snr) - 1)
        lower = (upper - 1).clamp(min=0)
        low, high = self.log_snr[lower].double(), self.log_snr[upper].double()
        share = ((levels - low) / (high - low).clamp(min=1e-12)).clamp(0, 1).float()
        return replace(
            self,
            modulation=torch.lerp(self.modulation[lower], self.modulation[upper], share[:, None, None]),
            temperature=torch.lerp(self.temperature[lower], self.temperature[upper], share),
            log_snr=log_snr,
        )

    def of_levels(self, count: int) -> Self:
        """A copy with uninitialised memory for ``count`` levels, to be written with those of several samplers."""
        levels = {
            name: getattr(self, name).new_empty(count, *getattr(self, name).shape[1:])
            for name in ("modulation", "temperature", "log_snr")
        }
        return replace(self, **levels)

    def features(self, x_start: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features (B, F) of normalised latents (B, N, d) and the mask (B, N) of their real positions."""
        if self.hidden.shape[1] != x_start.shape[-1]:
            return x_start.flatten(1)
        if mask is None:
            return x_start.mean(dim=1)
        return (x_start * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def scores(self, features: Tensor, level: Tensor) -> Tensor:
        """Logits before the temperature, or the number, (B, C) of features (B, F) at levels (B,) or (1,), indices."""
        scale, shift = self.modulation[level].unbind(1)
        inner = (features @ self.hidden.T + self.hidden_bias) * (1 + scale) + shift
        return inner * inner.sigmoid() @ self.output.T + self.output_bias

    def shift(
        self, x_start: Tensor, target: Tensor, weight: Tensor, level: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """What is added to x_start (B, N, d): ``weight`` (B,) times the gradient of the target's log-probability.

        Args:
            target: (B,), classes or numbers. The step to a number is bounded: at an infinite weight it is that of
                Newton's method. Weights below 0 lead away.
            level: (1,) or (B,) int64, indices of the noise levels.

        Returns:
            (B, N, d), or (B, 1, d) of the mean of positions.
        """
        scale, shift = self.modulation.index_select(0, level).unbind(1)
        temperature = self.temperature.index_select(0, level)
        inner = (self.features(x_start, mask) @ self.hidden.T + self.hidden_bias) * (1 + scale) + shift
        gate = inner.sigmoid()
        scores = inner * gate @ self.output.T + self.output_bias
        slope = gate * (1 + inner * (1 - gate)) * (1 + scale)
        if self.is_number:
            rise = (self.output * slope) @ self.hidden
            steep = rise.square().sum(dim=1)
            step = weight * (target - scores[:, 0]) / (weight.abs() * steep + temperature.square())
            moved = step[:, None] * rise
        else:
            wanted = (target[:, None] == torch.arange(scores.shape[1], device=scores.device)).float()
            temperature = temperature[:, None]
            residual = weight[:, None] / temperature * (wanted - (scores / temperature).softmax(dim=1))
            moved = (residual @ self.output * slope) @ self.hidden
        return moved.reshape(len(x_start), -1, x_start.shape[-1])


@dataclass(frozen=True)
class GuideTargets:
    """Guides, with a target and a weight for each sample: ``targets`` and ``weights`` (B, G) float32.

    ``one_by_one``: samples are led one after another, so that none depends on the others of its batch.
    """

    guides: Sequence[Guide]
    targets: Tensor
    weights: Tensor
    one_by_one: bool = False

    def rows(self, rows: Tensor) -> "GuideTargets":
        """Those of the samples ``rows`` (R,)."""
        return replace(self, targets=self.targets[rows], weights=self.weights[rows])

    def on(self, log_snr: Tensor) -> "GuideTargets":
        """The guides on the levels (S,) of a sampler's steps."""
        return replace(self, guides=[guide.on(log_snr) for guide in self.guides])

    def lead(self, x_start: Tensor, level: Tensor, mask: Tensor | None = None) -> Tensor:
        """x_start (B, N, d) moved by all guides, whose gradients add up; ``level`` () or (B,) indexes levels."""
        if self.one_by_one and len(x_start) > 1:
            every = torch.arange(len(x_start), device=x_start.device)
            levels = level.reshape(-1).expand(len(every)).split(1)
            masks = [None] * len(every) if mask is None else mask.split(1)
            parts = zip(every.split(1), x_start.split(1), levels, masks, strict=True)
            return torch.cat([self.rows(row).lead(x, at, real) for row, x, at, real in parts])
        led, level = x_start, level.reshape(-1)
        for number, guide in enumerate(self.guides):
            led = led + guide.shift(x_start, self.targets[:, number], self.weights[:, number], level, mask)
        return led
