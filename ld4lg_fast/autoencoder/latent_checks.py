"""Checks of latents before decoding. Letters: B texts, N latent positions, d width."""

from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.levels import not_finite
from ld4lg_fast.models.layers import check_mask
from ld4lg_fast.options.checks import check_dense, check_floats, finite_vectors


def check_latents(latents: Tensor, mask: Tensor | None, sizes: tuple[int, int], fewer: bool) -> None:
    """Checks latents (B, N, d) and their mask (B, N) for a model of ``sizes`` (N, d).

    ``fewer``: fewer than N positions are allowed.

    Raises:
        ConfigError: wrong type, shape or dtype, or vectors that are not finite or too large for float32.
    """
    shape = f"(texts, {sizes[0]}, {sizes[1]})"
    if not isinstance(latents, Tensor):
        raise ConfigError(
            f"Latents must be one tensor of the shape {shape}, not a {type(latents).__name__}; "
            "`encode` gives them and their mask."
        )
    check_floats("Latents", latents)
    lengths = range(1, sizes[0] + 1) if fewer else (sizes[0],)
    if latents.dim() != 3 or latents.shape[1] not in lengths or latents.shape[2] != sizes[1]:
        raise ConfigError(
            f"Latents have the shape {tuple(latents.shape)}; this model's have {shape}. "
            "Take those that `encode` or `sample` gives."
        )
    if isinstance(mask, Tensor):
        check_dense("mask", mask)
    check_finite(latents, check_mask("mask", mask, tuple(latents.shape[:2])))


def check_finite(values: Tensor, mask: Tensor | None) -> None:
    """Checks that unmasked vectors (B, N, d) are `finite_vectors`; the mask is (B, N).

    Raises:
        ConfigError: the message says how many of the B texts are affected.
    """
    broken = ~finite_vectors(values)
    if mask is not None:
        broken &= mask.to(broken.device).bool()
    if sentence := not_finite(int(broken.any(dim=1).sum()), len(values)):
        raise ConfigError(sentence)
