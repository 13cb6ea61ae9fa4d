import torch
from torch import Tensor
from torch.nn import functional as F

_MASK32 = 0xFFFFFFFF


def geglu(projected: Tensor, bias: Tensor, dropout: float = 0.0, seed: Tensor | None = None) -> Tensor:
    """See `ops.geglu`. Computes in float32, or in float64 where an input has it."""
    dtype = torch.promote_types(torch.promote_types(projected.dtype, bias.dtype), torch.float32)
    value, gate = (projected.to(dtype) + bias.to(dtype)).chunk(2, dim=-1)
    out = value * F.gelu(gate)
    if dropout and seed is not None:
        keep = random_words(seed, out.shape) >= dropout_threshold(dropout)
        out = torch.where(keep, out / (1 - dropout), 0.0)
    return out.to(projected.dtype)


def dropout_threshold(dropout: float) -> int:
    """An element is kept if its random word is at least this, both of 32 bits."""
    return min(round(dropout * 2**32), _MASK32)


def random_words(seed: Tensor, shape: torch.Size) -> Tensor:
    """A 32-bit word, in int64, for every element of ``shape``. The mapping, which every backend follows:

    row r (all axes but the last flattened) has the key ``mix(mix(low word of seed ^ r) ^ high word of seed)``,
    its column c the word ``mix(key + c·0x9E3779B9)``, modulo 2³²; `mix` is the finaliser of MurmurHash3
    (Appleby 2011). A hash of the place needs no state, and backward computes the same words again.
    """
    rows = torch.arange(shape[:-1].numel(), device=seed.device)
    columns = torch.arange(shape[-1], device=seed.device)
    seed = seed.reshape(())
    key = mix(mix((seed ^ rows) & _MASK32) ^ ((seed >> 32) & _MASK32))
    return mix((key[:, None] + columns * 0x9E3779B9) & _MASK32).reshape(shape)


def mix(word: Tensor) -> Tensor:
    word = ((word ^ (word >> 16)) * 0x85EBCA6B) & _MASK32
    word = ((word ^ (word >> 13)) * 0xC2B2AE35) & _MASK32
    return word ^ (word >> 16)
