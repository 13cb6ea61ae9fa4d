"""Counter-based random numbers of (seed, sample id, stream), equal to those of the PyTorch pipeline.

Letters: B batch.
"""

import math
from collections.abc import Sequence

import numpy as np

START_STREAM = 0  # of z_T; the steps' streams are in `brownian`
TOKEN_STREAM = 1 << 30
LENGTH_STREAM = TOKEN_STREAM + 1
CLASS_STREAM = TOKEN_STREAM + 2

_LOW32 = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))

Seed = int | np.ndarray
"""Of all samples, or one of each, (B,) uint64."""


def philox_normal(seed: Seed, sample_ids: np.ndarray, stream: int, shape: Sequence[int]) -> np.ndarray:
    """Standard normal noise (B, *shape) float32 for sample_ids (B,); ``seed``: one of all, or (B,) uint64.

    Philox4x32-10 (Salmon et al. 2011) of key (seed) and counter (element // 4, stream, sample id), then
    Box-Muller, as `ld4lg_fast.kernels.ops.philox_normal` defines it.

    Raises:
        ValueError: a seed outside 0 … 2⁶⁴-1.
    """
    if isinstance(seed, int) and not 0 <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it needs 0 <= seed < 2**64")
    size = math.prod(shape)
    ids = np.asarray(sample_ids, np.int64).astype(np.uint64)[:, None]
    words = np.zeros((4, len(ids), (size + 3) // 4), np.uint64)
    words[0] += np.arange(words.shape[2], dtype=np.uint64)
    words[1] += np.uint64(stream)
    words[2] += ids & _LOW32
    words[3] += ids >> _32
    seeds = np.asarray(seed, np.uint64).reshape(-1, 1)
    keys = [seeds & _LOW32, seeds >> _32]
    for _ in range(10):
        first, second = words[0] * _MULTIPLIERS[0], words[2] * _MULTIPLIERS[1]
        words = np.stack(
            [
                (second >> _32) ^ words[1] ^ keys[0],
                second & _LOW32,
                (first >> _32) ^ words[3] ^ keys[1],
                first & _LOW32,
            ]
        )
        keys = [(key + step) & _LOW32 for key, step in zip(keys, _KEY_STEPS, strict=True)]
    u = (words.astype(np.float64) + 0.5) / 2**32
    radius, angle = np.sqrt(-2 * np.log(u[0::2])), 2 * math.pi * u[1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)  # (2, B, blocks, 2)
    flat = pairs.transpose(1, 2, 0, 3).reshape(len(ids), -1)[:, :size]
    return flat.astype(np.float32).reshape(len(ids), *shape)


def uniforms(seed: Seed, sample_ids: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Uniform numbers (B, count) float64: the normal CDF of `philox_normal`."""
    normal = philox_normal(seed, sample_ids, stream, (count,)).astype(np.float64)
    return np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)), otypes=[np.float64])(normal)


def draw(counts: Sequence[int], seed: Seed, sample_ids: np.ndarray, stream: int) -> np.ndarray:
    """Indices (B,) into ``counts``, sampled in proportion to them."""
    cumulative = np.cumsum(counts, dtype=np.float64)
    threshold = uniforms(seed, sample_ids, stream, 1)[:, 0] * cumulative[-1]
    last = int(np.flatnonzero(counts)[-1])
    return np.minimum(np.searchsorted(cumulative, threshold, side="right"), last)
