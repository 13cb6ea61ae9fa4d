"""Plain PyTorch truth of every op: fallback, test oracle and benchmark baseline in one.

Letters: B batch, N positions, D model width.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_PHILOX_ROUNDS = 10
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def adaln_residual(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float = 1e-5,
) -> Tensor:
    """x = residual + (1 + scale)·LN(h) + shift, statistics in float32; x has the residual's dtype."""
    norm = F.layer_norm(h.to(_wide(h)), h.shape[-1:], weight.to(_wide(h)), bias.to(_wide(h)), eps)
    return (residual + (1 + scale.to(norm.dtype)) * norm + shift).to(residual.dtype)


def adaln_residual_norm(
    h: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor,
    shift: Tensor,
    next_weight: Tensor,
    next_bias: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """`adaln_residual`, and y = LN(x; next_weight, next_bias), the next sub-block's pre-norm, in x's dtype."""
    x = adaln_residual(h, residual, weight, bias, scale, shift, eps)
    wide = _wide(x)
    y = F.layer_norm(x.to(wide), x.shape[-1:], next_weight.to(wide), next_bias.to(wide), eps)
    return x, y.to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    """float64 stays; everything else is computed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def philox_4x32(counter: Sequence[Tensor], key: Sequence[int]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al. 2011): four words of 32 bits, as int64 tensors, from a counter and a key."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_PHILOX_ROUNDS):
        high0, low0 = _multiply(_PHILOX_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_PHILOX_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _PHILOX_KEY_STEPS[0]) & _MASK32, (k1 + _PHILOX_KEY_STEPS[1]) & _MASK32
    return [c0, c1, c2, c3]


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 x 32 bit product, by halves so that int64 does not overflow."""
    low, high = constant * (word & 0xFFFF), constant * (word >> 16)
    return (high + (low >> 16)) >> 16, (low + ((high & 0xFFFF) << 16)) & _MASK32


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Normal noise (len(sample_ids), *shape) float32, a pure function of (seed, sample id, stream, element).

    Element e of a sample is lane e mod 4 of the Philox block with counter (e div 4, stream, id low, id high)
    and key (seed low, seed high). Lanes (0, 1) and (2, 3) are Box-Muller pairs: with words w of 32 bits,
    r = √(-2 ln((w₀ + 1)/2³²)), angle = 2π w₁/2³², normals r·cos, r·sin, computed in float64.
    """
    count = math.prod(shape)
    blocks = torch.arange((count + 3) // 4, device=sample_ids.device)
    ids = sample_ids.long()[:, None]
    counter = [blocks.expand(len(ids), -1), torch.full_like(ids, stream), ids & _MASK32, ids >> 32 & _MASK32]
    words = philox_4x32(counter, (seed & _MASK32, seed >> 32 & _MASK32))
    normals = []
    for first, second in (words[:2], words[2:]):
        radius = (-2 * ((first.double() + 1) * 2.0**-32).log()).sqrt()
        angle = second.double() * (2 * math.pi * 2.0**-32)
        normals += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(normals, dim=-1).flatten(1)[:, :count].float().reshape(-1, *shape)
