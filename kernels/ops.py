"""The operations of the library: checks the arguments, chooses a backend (see `backend`), calls it.

Letters: B batch, N latent positions, D model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend, reference
from ld4lg_fast.kernels.layout import grouped_modulation
from ld4lg_fast.kernels.registration import adaln_residual as _adaln_residual  # noqa: F401  (it registers)
from ld4lg_fast.kernels.registration import philox_normal as _philox_normal  # noqa: F401  (it registers)


def adaln_residual(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor | None = None,
    next_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """Post-norm, time modulation, residual and the next sub-block's pre-norm, in one pass.

    ``x = residual + (1 + scale)·LN(h; weight, bias) + shift`` and ``y = LN(x; next_weight, next_bias)``
    (the feed-forward branch of Lovelace et al. 2023; adaptive norms after Peebles & Xie 2023).

    Statistics and arithmetic are in float32 whatever the inputs' dtypes, which may differ from one another.
    The derivatives of all tensors are defined.

    Args:
        h: (B, N, D), or any leading axes: the branch's output.
        residual: the shape of h.
        weight, bias: (D,) of the norm of h.
        scale, shift: broadcastable to h's shape, e.g. (B, 1, D) or (B, N, D).
        next_weight, next_bias: (D,) of the norm of x, or both None.
        eps: added to both variances.

    Returns:
        x in residual's dtype, and y in the promoted dtype of x and next_weight, or None without a next norm.

    Raises:
        ValueError: shapes that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    if residual.shape != h.shape:
        raise ValueError(f"residual has shape {tuple(residual.shape)}; it needs h's, {tuple(h.shape)}")
    if (next_weight is None) != (next_bias is None):
        raise ValueError("next_weight and next_bias come together; give both or neither")
    width = h.shape[-1:]
    if not width or width[0] == 0:
        raise ValueError(f"h has shape {tuple(h.shape)}; its last axis needs at least one element")
    vectors = {"weight": weight, "bias": bias, "next_weight": next_weight, "next_bias": next_bias}
    for name, vector in vectors.items():
        if vector is not None and vector.shape != width:
            raise ValueError(
                f"{name} has shape {tuple(vector.shape)}; it needs {tuple(width)}, h's last axis"
            )
    scale, shift = grouped_modulation(scale, shift, h.shape)
    tensors = [t for t in (h, residual, scale, shift, *vectors.values()) if t is not None]
    chosen = backend.choose("adaln_residual", h.device.type, tuple(t.dtype for t in tensors))
    if chosen == "reference":
        return reference.adaln_residual(h, residual, weight, bias, scale, shift, next_weight, next_bias, eps)
    if next_weight is None:
        x, _ = torch.ops.ld4lg.adaln_residual(h, residual, weight, bias, scale, shift, eps)
        return x, None
    x, y, _ = torch.ops.ld4lg.adaln_residual_norm(
        h, residual, weight, bias, scale, shift, next_weight, next_bias, eps
    )
    return x, y


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise with a random stream of its own for every sample.

    A number depends on (seed, its sample's id, stream, its place in the sample) and on nothing else: not on
    the batch, the device's generator or what was drawn before. `reference.philox_normal` gives the mapping
    (Philox4x32-10, Salmon et al. 2011, and Box-Muller).

    Args:
        seed: 0 … 2⁶⁴-1.
        sample_ids: (B,) int64, the samples' numbers.
        stream: 0 … 2³²-1, for example the sampling step.
        shape: of one sample; at most 2³⁴ elements.

    Returns:
        (B, *shape) float32 on sample_ids' device.

    Raises:
        ValueError: an argument out of its range.
        BackendUnavailableError: a backend was asked for by name and cannot run here.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it needs 0 <= seed < 2**64")
    if not 0 <= stream < 2**32:
        raise ValueError(f"stream is {stream}; it needs 0 <= stream < 2**32")
    if sample_ids.ndim != 1 or sample_ids.dtype != torch.int64:
        raise ValueError(
            f"sample_ids is {sample_ids.dtype} of shape {tuple(sample_ids.shape)}; it needs one axis of int64"
        )
    if backend.choose("philox_normal", sample_ids.device.type, ()) == "reference":
        return reference.philox_normal(seed, sample_ids, stream, shape)
    signed = seed - 2**64 if seed >= 2**63 else seed
    return torch.ops.ld4lg.philox_normal(signed, sample_ids, stream, list(shape))
