"""Adaptive training times: sampled most often where the denoiser's error of x_start rises most.

Time warping of continuous diffusion for categorical data (Dieleman et al. 2022, section 4.3), which makes the error
rise linearly in the sampled times. Letters: B rows, K bins.
"""

import torch
from torch import Tensor, nn

BINS = 64
DECAY = 0.998  # of recorded errors, per step
EVERY = 100  # steps between two fits
PLAIN_SHARE = 0.1  # of times that are sampled uniformly, so that all occur


class TimeWarp(nn.Module):
    """A monotone, piecewise linear map of [0, 1]: uniform samples -> times of the schedule.

    Buffers: ``knots`` (K + 1,), values at equidistant points, at first the identity; ``errors`` and ``counts`` (K,),
    exponentially decayed sums over the rows whose time is in a bin.
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
        """Times of the schedule (B,) for uniform samples ``t`` (B,) in [0, 1]."""
        place = t * BINS
        left = place.long().clamp(max=BINS - 1)
        return torch.lerp(self.knots[left], self.knots[left + 1], place - left)

    def sums(self, times: Tensor, errors: Tensor) -> Tensor:
        """Sum of ``errors`` (B,) and number of rows in each bin of ``times`` (B,): (2, K)."""
        places = (times * BINS).long().clamp(max=BINS - 1)
        found = errors.new_zeros(2, BINS)
        return found.index_add_(1, places, torch.stack([errors, torch.ones_like(errors)]))

    @torch.no_grad()
    def record(self, sums: Tensor, share: float = 1.0) -> None:
        """Adds ``sums`` (2, K) of all processes, which come from a ``share`` of a step's batch."""
        for known, new in zip((self.errors, self.counts), sums, strict=True):
            known.mul_(DECAY**share).add_(new)

    @torch.no_grad()
    def fit(self) -> None:
        """Sets the knots to quantiles of the mean error's running maximum; needs two bins with rows."""
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
        # The inverse, which exists as PLAIN_SHARE makes the curve rise strictly.
        even = torch.linspace(0, 1, BINS + 1, device=times.device)
        right = torch.searchsorted(reached, even).clamp(1, len(times) - 1)
        low, high = reached[right - 1], reached[right]
        self.knots.copy_(torch.lerp(times[right - 1], times[right], (even - low) / (high - low)))

    def sampling_times(self) -> list[float]:
        """The knots from 1 to 0, for the spacing ``learned``."""
        return self.knots.flip(0).tolist()
