"""Checks of a batch: its memory, sample ids, and the shape of latents.

Letters: B batch, N latent positions, d latent width.
"""

import os
from collections.abc import Collection
from typing import Any

import numpy as np

from .decoding import DecodingRules
from .errors import RuntimeInputError
from .folder_schema import Diffusion
from .levels import not_finite
from .option_checks import Choice, complaint, first_complaint, shown

NOISE_BYTES = 64  # per element of the latents, while noise is generated
LOGIT_BYTES = 24  # per token of the vocabulary, while the next token is chosen
SLOT_BYTES = 12  # per element of the mask over the cache


def check_memory(diffusion: Diffusion, rules: DecodingRules, vocabulary: int, batch: int) -> None:
    """Refuses batches whose noise, logits and masks exceed the memory.

    Raises:
        RuntimeInputError: with the largest possible batch size.
    """
    beams = rules.num_beams if rules.strategy == "beam" else 1
    each = vocabulary * LOGIT_BYTES + beams * rules.max_length * SLOT_BYTES
    each = diffusion.num_latents * diffusion.dim_latent * NOISE_BYTES + beams * rules.num_decodes * each
    total = _memory()
    if batch * each > total:
        fit = total // each
        remedy = f"at most {fit}" if fit else "fewer beams, decodes or tokens"
        raise RuntimeInputError(
            f"batch_size is {batch}; so many samples at once need {batch * each / 2**30:,.0f} GiB of memory, of which "
            f"there are {total / 2**30:,.0f}: ask for {remedy}."
        )


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return 2**63


def check_seed(seed: Any) -> None:
    """Refuses what is neither a seed of all samples nor an array (B,) uint64 with one of each.

    Raises:
        RuntimeInputError: with the value.
    """
    if isinstance(seed, np.ndarray) and seed.dtype == np.uint64 and seed.ndim == 1:
        return
    if sentence := complaint("seed", seed):
        raise RuntimeInputError(sentence)


def sample_numbers(sample_ids: Any) -> np.ndarray:
    """The ids (B,) of a batch's samples, int64.

    Raises:
        RuntimeInputError: not whole numbers from 0.
    """
    ids = np.asarray(sample_ids)
    if ids.dtype.kind not in "iu" or ids.ndim != 1 or not ids.size or ids.min() < 0 or ids.max() >= 2**63:
        raise RuntimeInputError(
            f"sample_ids is {shown(sample_ids)}; it must be one or more whole numbers from 0 to 2**63-1."
        )
    return ids.astype(np.int64)


def check_latents(diffusion: Diffusion, latents: np.ndarray, mask: np.ndarray | None) -> None:
    """Refuses latents (B, N, d) and masks (B, N) of another shape than the model's, and latents that are not finite.

    Raises:
        RuntimeInputError: with their shape and the expected one.
    """
    longest, width = diffusion.num_latents, diffusion.dim_latent
    shapes = [(x.shape, x.dtype.kind) if isinstance(x, np.ndarray) else None for x in (latents, mask)]
    wanted = f"latents of the shape (B, {longest}, {width}), in floating point"
    if diffusion.has_mask:
        wanted = (
            f"latents of the shape (B, N, {width}), N at most {longest}, with a mask (B, N) of truth values"
        )
    fits = shapes[0] is not None and shapes[0][1] == "f" and latents.ndim == 3 and latents.shape[2] == width
    if diffusion.has_mask:
        fits = fits and 1 <= latents.shape[1] <= longest and shapes[1] == (latents.shape[:2], "b")
    else:
        fits = fits and latents.shape[1] == longest and mask is None
    if not fits or not len(latents):
        raise RuntimeInputError(
            f"This model decodes {wanted}; these are {shapes[0]}, with the mask {shapes[1]}."
        )
    with np.errstate(over="ignore"):  # overflow is counted as not finite
        lengths = np.square(latents.astype(np.float32)).sum(axis=2)
    broken = ~np.isfinite(lengths) & (True if mask is None else mask)
    if sentence := not_finite(int(broken.any(axis=1).sum()), len(latents)):
        raise RuntimeInputError(sentence)


def check_options(**options: Any) -> None:
    """Refuses options that violate their rule in `option_checks.OPTIONS`.

    Raises:
        RuntimeInputError: about the first of them.
    """
    if sentence := first_complaint(options):
        raise RuntimeInputError(sentence)


def check_choice(name: str, value: Any, names: Collection[str]) -> None:
    if sentence := complaint(name, value, Choice(names)):
        raise RuntimeInputError(sentence)
