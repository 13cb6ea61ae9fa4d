"""Guides: what a text should be like, as a gradient on the predicted x_start.

Classifier guidance (Dhariwal & Nichol 2021) by a linear model of the normalised x_start that the network predicts at
any noise level, so that its gradient has a closed form. x_start moves along the gradient times the covariance of
latents: a Gaussian's posterior mean given the attribute.

Letters: B batch, N latent positions, d latent width, F features, C classes (1 of a number), K noise levels,
S sampling steps, G guides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F

HELD_OUT = 5  # every fifth example is held out, to choose penalties and temperatures
ITERATIONS = 100


@dataclass(frozen=True)
class Guide:
    """A softmax regression (C classes), or a linear one (a number, C = 1), on x_start at K noise levels.

    Features are all F = N·d numbers of x_start; with F = d, of models whose texts have lengths, the mean of the real
    positions.

    Args:
        weight, bias: (C, F) and (C,) float32. direction: (C, F), the weight times the covariance of the features.
        log_snr: (K,) ascending. temperature: (K,), what logits are divided by at these levels; of a number the standard
            deviation of its errors.
        is_number: whether it is a linear regression.
    """

    weight: Tensor
    bias: Tensor
    direction: Tensor
    log_snr: Tensor
    temperature: Tensor
    is_number: bool

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on a device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def features(self, x_start: Tensor, mask: Tensor | None = None) -> Tensor:
        """Features (B, F) of normalised latents (B, N, d) and the mask (B, N) of their real positions."""
        if self.weight.shape[1] != x_start.shape[-1]:
            return x_start.flatten(1)
        if mask is None:
            return x_start.mean(dim=1)
        return (x_start * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def scores(self, x_start: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, C) before the temperature, or the number (B, 1), of normalised latents (B, N, d)."""
        return self.features(x_start, mask) @ self.weight.T + self.bias

    def temperatures(self, log_snr: Tensor) -> Tensor:
        """Temperature at each of the levels (S,), interpolated linearly and constant beyond the ends."""
        knots, levels = self.log_snr.double(), log_snr.to(self.log_snr.device).double().contiguous()
        upper = torch.searchsorted(knots, levels).clamp(1, len(knots) - 1) if len(knots) > 1 else 0
        if isinstance(upper, int):
            return self.temperature.expand(len(levels))
        share = ((levels - knots[upper - 1]) / (knots[upper] - knots[upper - 1])).clamp(0, 1)
        return torch.lerp(
            self.temperature[upper - 1].double(), self.temperature[upper].double(), share
        ).float()

    def shift(
        self, x_start: Tensor, target: Tensor, weight: Tensor, temperature: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """What is added to x_start (B, N, d): the step towards ``target`` (B,), a class or a number, (B, N or 1, d).

        ``weight`` (B,) is the power of the attribute's probability; below 0 it leads away. ``temperature`` () is of the
        noise level.
        """
        scores = self.scores(x_start, mask)
        if self.is_number:
            # Bounded: at an infinite weight the prediction is the target.
            spread = (self.weight * self.direction).sum()
            gain = weight / (weight.abs() * spread + temperature.square())
            pull = gain[:, None] * (target[:, None] - scores)
        else:
            wanted = (target[:, None] == torch.arange(scores.shape[1], device=scores.device)).float()
            pull = weight[:, None] / temperature * (wanted - (scores / temperature).softmax(dim=1))
        return (pull @ self.direction).reshape(len(x_start), -1, x_start.shape[-1])


@dataclass(frozen=True)
class GuideTargets:
    """Guides, with a target and a weight for each sample: ``targets`` and ``weights`` (B, G) float32."""

    guides: Sequence[Guide]
    targets: Tensor
    weights: Tensor

    def rows(self, rows: Tensor) -> "GuideTargets":
        """Those of the samples ``rows`` (R,)."""
        return replace(self, targets=self.targets[rows], weights=self.weights[rows])

    def temperatures(self, log_snr: Tensor) -> Tensor:
        """Temperatures (S, G) at the levels (S,) of a sampler's steps."""
        return torch.stack([guide.temperatures(log_snr) for guide in self.guides], dim=1)

    def lead(self, x_start: Tensor, temperatures: Tensor, mask: Tensor | None = None) -> Tensor:
        """x_start (B, N, d) moved by all guides, whose gradients add up; ``temperatures`` (G,) of this step."""
        led = x_start
        for number, guide in enumerate(self.guides):
            target, weight = self.targets[:, number], self.weights[:, number]
            led = led + guide.shift(x_start, target, weight, temperatures[number], mask)
        return led


def regression(
    scores: Callable[[Tensor, Tensor], Tensor],
    targets: Tensor,
    width: int,
    num_classes: int | None,
    penalty: float,
) -> tuple[Tensor, Tensor]:
    """Weight (C, width) and bias (C,) float32 that minimise the loss plus ``penalty``/2 times the squared weights.

    Args:
        scores: from weight and bias to scores (B, C).
        targets: classes (B,), or their probabilities (B, C); numbers (B,) if ``num_classes`` is None.
    """
    weight = torch.zeros(num_classes or 1, width, device=targets.device, requires_grad=True)
    bias = torch.zeros(num_classes or 1, device=targets.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(scores(weight, bias), targets) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def held_out(count: int) -> Tensor:
    """Which of ``count`` examples are held out, (count,) bool."""
    return torch.arange(count) % HELD_OUT == 0


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C), or half the mean squared error of numbers (B, 1)."""
    if scores.shape[1] == 1:
        return F.mse_loss(scores[:, 0], targets) / 2
    return F.cross_entropy(scores, targets)
