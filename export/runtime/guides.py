"""Guides in NumPy, with the same numbers as `ld4lg_fast.diffusion.guides`.

Letters: B batch, N latent positions, d latent width, S sampling steps.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .errors import RuntimeInputError
from .folder_schema import GUIDES, FolderConfig, GuideEntry
from .guide_options import Chosen
from .json_files import REMEDY

Array = np.ndarray


@dataclass(frozen=True)
class Guide:
    """A small network of x_start, see `ld4lg_fast.diffusion.guides.Guide`; all arrays are float32."""

    hidden: Array
    hidden_bias: Array
    output: Array
    output_bias: Array
    modulation: Array
    log_snr: Array
    temperature: Array
    is_number: bool

    def on(self, log_snr: Array) -> "Guide":
        """The guide on the levels (S,) of a sampler's steps."""

        def between(values: Array) -> Array:
            columns = values.reshape(len(values), -1).T
            found = [np.interp(log_snr, self.log_snr, column) for column in columns]
            return np.stack(found, axis=1).astype(np.float32).reshape(-1, *values.shape[1:])

        changed: dict[str, Any] = {
            "modulation": between(self.modulation),
            "temperature": between(self.temperature),
        }
        return replace(self, log_snr=log_snr, **changed)

    def shift(self, x_start: Array, target: Array, weight: Array, level: int, mask: Array | None) -> Array:
        """What is added to x_start (B, N, d): ``weight`` (B,) times the gradient towards ``target`` (B,)."""
        (scale, shift), temperature = self.modulation[level], self.temperature[level]
        inner = (self._features(x_start, mask) @ self.hidden.T + self.hidden_bias) * (1 + scale) + shift
        with np.errstate(over="ignore"):  # exp of a large number is infinite, its gate 0
            gate = 1 / (1 + np.exp(-inner))
        scores = inner * gate @ self.output.T + self.output_bias
        slope = gate * (1 + inner * (1 - gate)) * (1 + scale)
        if self.is_number:
            rise = (self.output * slope) @ self.hidden
            steep = np.square(rise).sum(axis=1)
            step = weight * (target - scores[:, 0]) / (np.abs(weight) * steep + temperature**2)
            moved = step[:, None] * rise
        else:
            logits = scores / temperature
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            wanted = (target[:, None] == np.arange(scores.shape[1])).astype(np.float32)
            residual = weight[:, None] / temperature * (wanted - odds / odds.sum(axis=1, keepdims=True))
            moved = (residual @ self.output * slope) @ self.hidden
        return moved.reshape(len(x_start), -1, x_start.shape[-1])

    def _features(self, x_start: Array, mask: Array | None) -> Array:
        if self.hidden.shape[1] != x_start.shape[-1]:
            return x_start.reshape(len(x_start), -1)
        if mask is None:
            return x_start.mean(axis=1)
        return (x_start * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True, dtype=np.float32)


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
            guides[name].on(log_snr),
            np.array(each.targets, np.float32),
            np.array(each.scales, np.float32),
        )
        for name, each in chosen.items()
    ]

    def lead(step: int, x_start: Array) -> Array:
        led = x_start
        for guide, targets, weights in parts:
            led = led + guide.shift(x_start, targets, weights, step, mask)
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
        parts: list[Any] = []
        for shape in _shapes(entry, width):
            size = int(np.prod(shape))
            parts.append(numbers[start : start + size])
            start += size
            if len(parts[-1]) == size:
                parts[-1] = parts[-1].reshape(shape)
        arrays: dict[str, Any] = {field.name: part for field, part in zip(fields(Guide), parts, strict=False)}
        found[name] = Guide(**arrays, is_number=entry.classes is None)
    if start != len(numbers) or not np.isfinite(numbers).all():
        raise RuntimeInputError(f"{folder / GUIDES} is damaged; {REMEDY}.")
    return found


def _shapes(entry: GuideEntry, width: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a guide's arrays in the order of `Guide`."""
    hidden, outputs, levels = entry.num_hidden, entry.num_outputs, entry.num_levels
    return (
        (hidden, width),
        (hidden,),
        (outputs, hidden),
        (outputs,),
        (levels, 2, hidden),
        (levels,),
        (levels,),
    )


def write_guides(folder: Path, guides: Sequence[Sequence[Array]]) -> None:
    """Writes the arrays of all guides, each in the order of `Guide`, one after the other as float32."""
    flat = [np.asarray(array, "<f4").ravel() for arrays in guides for array in arrays]
    np.concatenate(flat).tofile(folder / GUIDES)
