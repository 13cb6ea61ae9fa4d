"""Guides in NumPy, with the same numbers as `ld4lg_fast.diffusion.guides`.

Letters: B batch, N latent positions, d latent width, F features, C outputs, K noise levels, S sampling steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .errors import RuntimeInputError
from .folder_schema import GUIDES, FolderConfig, GuideEntry
from .guide_options import Chosen
from .json_files import REMEDY

Array = np.ndarray


@dataclass(frozen=True)
class Guide:
    """A regression on x_start, see `ld4lg_fast.diffusion.guides.Guide`; all arrays are float32."""

    weight: Array
    bias: Array
    direction: Array
    log_snr: Array
    temperature: Array
    is_number: bool

    def shift(
        self, x_start: Array, target: Array, weight: Array, temperature: np.float32, mask: Array | None
    ) -> Array:
        """What is added to x_start (B, N, d): the step towards ``target`` (B,) of ``weight`` (B,), (B, N or 1, d)."""
        scores = self._features(x_start, mask) @ self.weight.T + self.bias
        if self.is_number:
            spread = (self.weight * self.direction).sum()
            gain = weight / (np.abs(weight) * spread + temperature**2)
            pull = gain[:, None] * (target[:, None] - scores)
        else:
            logits = scores / temperature
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            wanted = (target[:, None] == np.arange(scores.shape[1])).astype(np.float32)
            pull = weight[:, None] / temperature * (wanted - odds / odds.sum(axis=1, keepdims=True))
        return (pull @ self.direction).reshape(len(x_start), -1, x_start.shape[-1])

    def _features(self, x_start: Array, mask: Array | None) -> Array:
        if self.weight.shape[1] != x_start.shape[-1]:
            return x_start.reshape(len(x_start), -1)
        if mask is None:
            return x_start.mean(axis=1)
        return (x_start * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)


def lead_of(
    guides: Mapping[str, Guide], chosen: Mapping[str, Chosen] | None, log_snr: Array, mask: Array | None
) -> Callable[[int, Array], Array] | None:
    """What leads x_start in each step, ``(step, x_start) -> x_start``; None where nothing does.

    Args:
        log_snr: (S,) of the sampler's steps. mask: (B, N) of the real positions, or None for all.
    """
    if not chosen:
        return None
    parts = [
        (
            guides[name],
            np.array(each.targets, np.float32),
            np.array(each.scales, np.float32),
            np.interp(log_snr, guides[name].log_snr, guides[name].temperature).astype(np.float32),
        )
        for name, each in chosen.items()
    ]

    def lead(step: int, x_start: Array) -> Array:
        led = x_start
        for guide, targets, weights, temperatures in parts:
            led = led + guide.shift(x_start, targets, weights, temperatures[step], mask)
        return led

    return lead


def rows_of(chosen: Mapping[str, Chosen], rows: Sequence[int]) -> dict[str, Chosen]:
    """The targets and weights of some of the samples."""
    return {
        name: Chosen([each.targets[row] for row in rows], [each.scales[row] for row in rows])
        for name, each in chosen.items()
    }


def load_guides(folder: Path, config: FolderConfig) -> dict[str, Guide]:
    """The guides of an exported folder, from the numbers of one file.

    Raises:
        RuntimeInputError: the file has another number of them than the config says, or some are not finite.
    """
    if not config.guides:
        return {}
    diffusion = config.diffusion
    width = diffusion.dim_latent * (1 if diffusion.has_mask else diffusion.num_latents)
    numbers = np.fromfile(folder / GUIDES, "<f4")
    found, start = {}, 0
    for name, entry in config.guides.items():
        parts = []
        for shape in _shapes(entry, width):
            size = int(np.prod(shape))
            parts.append(numbers[start : start + size])
            start += size
            if len(parts[-1]) == size:
                parts[-1] = parts[-1].reshape(shape)
        found[name] = Guide(*parts, is_number=entry.classes is None)
    if start != len(numbers) or not np.isfinite(numbers).all():
        raise RuntimeInputError(f"{folder / GUIDES} is damaged; {REMEDY}.")
    return found


def _shapes(entry: GuideEntry, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a guide's arrays in the order of `Guide`."""
    matrix, levels = (entry.num_outputs, width), (entry.num_levels,)
    return matrix, (entry.num_outputs,), matrix, levels, levels


def write_guides(folder: Path, guides: Sequence[Sequence[Array]]) -> None:
    """Writes the arrays of all guides, each in the order of `Guide`, one after the other as float32."""
    flat = [np.asarray(array, "<f4").ravel() for arrays in guides for array in arrays]
    np.concatenate(flat).tofile(folder / GUIDES)
