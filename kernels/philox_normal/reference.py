from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32(counter: Sequence[Tensor], key: Sequence[Tensor | int], rounds: int = 10) -> list[Tensor]:
    """Four 32-bit words, in int64 tensors, from a counter of four words and a key of two.

    Philox4x32 of Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
    """
    c0, c1, c2, c3 = counter
    key0, key1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, _PHILOX_MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _PHILOX_MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0 = (key0 + _PHILOX_KEY_STEPS[0]) & _MASK32
        key1 = (key1 + _PHILOX_KEY_STEPS[1]) & _MASK32
    return [c0, c1, c2, c3]


def _multiply(words: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32 × 32 bit product, computed in halves so that int64 does not overflow."""
    low = (words & 0xFFFF) * multiplier
    middle = (words >> 16) * multiplier + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox_normal(
    seed: int | Tensor, sample_ids: Tensor, stream: int | Tensor, shape: Sequence[int]
) -> Tensor:
    """See `ops.philox_normal`. The mapping, which every backend follows:

    - key = (low word of seed, high word of seed);
    - counter = (i // 4, stream, low word of the sample id, high word of the sample id) gives four words
      w0…w3, which belong to the elements i = 4k … 4k+3 of the sample in row-major order;
    - u(w) = (w + 1/2) / 2³², so 0 < u < 1; elements 4k and 4k+1 are √(-2 ln u(w0)) · cos and sin of 2π u(w1),
      elements 4k+2 and 4k+3 the same of w2 and w3 (Box and Muller 1958).

    The words are exact everywhere. The normals are computed in float64 and rounded to float32, so that they
    hardly depend on whose logarithm and cosine are used.
    """
    size = prod(shape)
    # One number, or one for each sample, beside the blocks.
    seed, stream = (n.reshape(-1, 1) if isinstance(n, Tensor) else n for n in (seed, stream))
    device = sample_ids.device
    ids = sample_ids.cpu() if device.type == "mps" else sample_ids  # which has no float64
    ids = ids.to(torch.int64)[:, None]
    blocks = torch.arange((size + 3) // 4, device=ids.device)[None]
    zero = torch.zeros_like(ids * blocks)
    counter = [blocks + zero, stream + zero, (ids & _MASK32) + zero, ((ids >> 32) & _MASK32) + zero]
    words = philox4x32(counter, (seed & _MASK32, (seed >> 32) & _MASK32))
    w0, w1, w2, w3 = ((word.double() + 0.5) / 2**32 for word in words)
    normals = [
        radius * turn
        for u, angle in ((w0, 2 * pi * w1), (w2, 2 * pi * w3))
        for radius in [torch.sqrt(-2 * torch.log(u))]
        for turn in (torch.cos(angle), torch.sin(angle))
    ]
    flat = torch.stack(normals, dim=-1).float().flatten(1)[:, :size]
    return flat.reshape(len(sample_ids), *shape).to(device)
