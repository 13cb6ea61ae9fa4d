"""Training times that follow the denoiser's own error, so that it rises evenly over them.

As time warping of continuous diffusion for categorical data (Dieleman et al. 2022, section 4.3): where the error of
x_start rises steeply there is most to learn, and times are drawn there most often. Letters: B rows, K bins.
"""

import torch
from torch import Tensor, nn

BINS = 64
DECAY = 0.998  # of what was recorded, a step
EVERY = 100  # steps between two fits
PLAIN_SHARE = 0.1  # of the times that are drawn evenly all the same, so that none is never seen


class TimeWarp(nn.Module):
    """A rising map of [0, 1] onto itself: what is drawn evenly -> times of the schedule.

    Buffers: ``knots`` (K + 1,) the map's values at equal distances, at first the identity; ``errors`` and ``counts``
    (K,), sums over the rows whose time is in a bin, older ones counting less.
    """

    knots: Tensor
    errors: Tensor
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.linspace(0, 1, BINS + 1))
        self.register_buffer("errors", torch.zeros(BINS))
        self.register_buffer("counts", torch.zeros(BINS))

    def forward(self, t: Tensor) -> Tensor:
        """Times of the schedule (B,) for evenly drawn ``t`` (B,) in [0, 1]."""
        place = t * BINS
        left = place.long().clamp(max=BINS - 1)
        return torch.lerp(self.knots[left], self.knots[left + 1], place - left)

    def sums(self, times: Tensor, errors: Tensor) -> Tensor:
        """Of each bin the sum of the ``errors`` (B,) of the rows with ``times`` (B,) in it; their number: (2, K)."""
        places = (times * BINS).long().clamp(max=BINS - 1)
        found = errors.new_zeros(2, BINS)
        return found.index_add_(1, places, torch.stack([errors, torch.ones_like(errors)]))

    @torch.no_grad()
    def record(self, sums: Tensor, share: float = 1.0) -> None:
        """Takes note of ``sums`` (2, K) of all processes, those of a ``share`` of a step's batch."""
        for known, new in zip((self.errors, self.counts), sums, strict=True):
            known.mul_(DECAY**share).add_(new)

    @torch.no_grad()
    def fit(self) -> None:
        """Moves the knots to where the mean error, made to rise, has risen by equal parts; needs two bins with rows."""
        seen = self.counts > 0
        if seen.sum() < 2:
            return
        centres = (torch.arange(BINS, device=seen.device) + 0.5) / BINS
        curve = (self.errors[seen] / self.counts[seen]).cummax(dim=0).values
        risen = (curve - curve[0]) / (curve[-1] - curve[0]).clamp(min=1e-12)
        ends = self.knots.new_tensor([0.0, 1.0])
        times = torch.cat([ends[:1], centres[seen], ends[1:]])
        reached = torch.cat([ends[:1], risen, ends[1:]])
        reached = (1 - PLAIN_SHARE) * reached + PLAIN_SHARE * times
        # The inverse, which exists as the plain share rises everywhere.
        even = torch.linspace(0, 1, BINS + 1, device=times.device)
        right = torch.searchsorted(reached, even).clamp(1, len(times) - 1)
        low, high = reached[right - 1], reached[right]
        self.knots.copy_(torch.lerp(times[right - 1], times[right], (even - low) / (high - low)))

    def sampling_times(self) -> list[float]:
        """The knots from 1 to 0, as the spacing ``learned`` takes them."""
        return self.knots.flip(0).tolist()
