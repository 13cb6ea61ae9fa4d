"""Normal noise in Triton; the mapping is in `reference.philox_normal`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit
def _open_unit(word: tl.tensor) -> tl.tensor:
    """(w + 1/2) / 2³² in float64: exact, and never 0 or 1."""
    return (word.to(tl.uint32).to(tl.float64) + 0.5) * 2.3283064365386963e-10


@triton.jit
def _cos_sin(turns: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """cos and sin of 2π·turns, 0 <= turns < 1, in float64.

    The library's functions keep a table on the stack for angles that do not occur here; the series of an
    angle within ±π/4 need no memory, and are exact to 1e-15.
    """
    quarters = tl.floor(4.0 * turns + 0.5)
    angle = (turns - 0.25 * quarters) * 6.283185307179586
    square = angle * angle
    cos = tl.full(turns.shape, 1.0, tl.float64)
    sin = tl.full(turns.shape, 1.0, tl.float64)
    for term in tl.static_range(8, 0, -1):
        cos = 1.0 - cos * square * (1.0 / ((2 * term - 1) * (2 * term)))
        sin = 1.0 - sin * square * (1.0 / ((2 * term) * (2 * term + 1)))
    sin *= angle
    quadrant = quarters.to(tl.int32) % 4
    swapped = (quadrant % 2) == 1
    size_cos, size_sin = tl.where(swapped, sin, cos), tl.where(swapped, cos, sin)
    cos_negative = (quadrant == 1) | (quadrant == 2)
    return tl.where(cos_negative, -size_cos, size_cos), tl.where(quadrant >= 2, -size_sin, size_sin)


@triton.jit
def philox_normal_block(
    seed: tl.tensor, sample_id: tl.tensor, stream: tl.tensor, counter: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """The four normals of each counter (BLOCK,) of a sample, as float32."""
    zero = (counter * 0).to(tl.uint32)
    low = zero + (sample_id & 0xFFFFFFFF).to(tl.uint32)
    high = zero + ((sample_id >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, counter.to(tl.uint32), zero + tl.cast(stream, tl.uint32), low, high)
    radius0 = tl.sqrt(-2.0 * tl.log(_open_unit(w0)))
    radius1 = tl.sqrt(-2.0 * tl.log(_open_unit(w2)))
    cos0, sin0 = _cos_sin(_open_unit(w1))
    cos1, sin1 = _cos_sin(_open_unit(w3))
    return (
        (radius0 * cos0).to(tl.float32),
        (radius0 * sin0).to(tl.float32),
        (radius1 * cos1).to(tl.float32),
        (radius1 * sin1).to(tl.float32),
    )


@triton.jit(do_not_specialize=["seed", "stream", "size"])
def philox_normal_kernel(
    ids_ptr: tl.tensor,
    out_ptr: tl.tensor,
    seed: tl.tensor,
    stream: tl.tensor,
    size: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """Program (sample, j): four normals for each of BLOCK counters of a sample."""
    sample = tl.program_id(0).to(tl.int64)
    counter = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n0, n1, n2, n3 = philox_normal_block(seed, tl.load(ids_ptr + sample), stream, counter)
    element = counter.to(tl.int64) * 4
    target = out_ptr + sample * size + element
    tl.store(target, n0, mask=element < size)
    tl.store(target + 1, n1, mask=element + 1 < size)
    tl.store(target + 2, n2, mask=element + 2 < size)
    tl.store(target + 3, n3, mask=element + 3 < size)


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: list[int]) -> Tensor:
    """(B, *shape) float32."""
    samples = sample_ids.shape[0]
    out = sample_ids.new_empty((samples, *shape), dtype=torch.float32)
    if out.numel():
        size = out.numel() // samples
        grid = (samples, triton.cdiv(triton.cdiv(size, 4), _BLOCK))
        philox_normal_kernel[grid](sample_ids.contiguous(), out, seed, stream, size, BLOCK=_BLOCK)
    return out
