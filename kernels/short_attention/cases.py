from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.testing import Arguments, OpCase


def attention_arguments(
    batch: int,
    queries: int,
    heads: int,
    *,
    keys: int | None = None,
    rms: bool = False,
    bias: tuple[int, ...] | None = None,
    lengths: tuple[int, ...] | None = None,
) -> Callable[[torch.Generator], Arguments]:
    """q, k, v are parts of one matmul, or of two with ``keys``. ``bias``: its leading axes. ``lengths``: the number of
    real positions in each sample; the others are excluded."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        width, num_keys = heads * 64, keys or queries
        if keys is None:
            q, k, v = randn(batch, queries, 3 * width).chunk(3, dim=-1)
        else:
            q, (k, v) = randn(batch, queries, width), randn(batch, keys, 2 * width).chunk(2, dim=-1)
        added = None if bias is None else randn(*bias, queries, num_keys)
        if lengths is not None:
            real = [torch.arange(n) < torch.tensor(lengths)[:, None] for n in (queries, num_keys)]
            pairs = real[0][:, None, :, None] & real[1][:, None, None, :]
            excluded = torch.finfo(torch.bfloat16).min
            added = torch.where(pairs, 0.0 if added is None else added, excluded).double()
        gains = [1 + 0.2 * randn(64) if rms else None for _ in range(2)]
        return {"q": q, "k": k, "v": v, "bias": added, "q_gain": gains[0], "k_gain": gains[1]}

    return make


def _attention(name: str, *sizes: int, **options: Any) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "differentiable") if key in options}
    return OpCase("short_attention", name, attention_arguments(*sizes, **options), **fields)


HALF = (torch.bfloat16,)  # whole heads in float32 do not fit a GPU's registers at these sizes

CASES = (
    _attention("paper", 2, 32, 12, dtypes=HALF),
    _attention("paper-v1", 2, 64, 12, bias=(12,), dtypes=HALF),
    _attention("paper-perceiver", 2, 32, 12, keys=96, rms=True, dtypes=HALF),
    _attention("small", 2, 3, 1, keys=5, rms=True, bias=(1,)),
    _attention("small-plain", 2, 3, 2),
    _attention("padded", 3, 6, 2, bias=(2,), lengths=(6, 3, 1), differentiable=False),
    _attention("one-key", 2, 7, 1, keys=1),
    _attention("odd", 2, 17, 3, keys=37, bias=(2, 1)),
    _attention("longest", 1, 128, 1, differentiable=False),
    _attention("empty-batch", 0, 4, 2),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """The Perceiver's attention to latents and text, and self-attention of the paper's two denoisers."""
    return (
        _attention(f"{batch}x32x12x64-perceiver", batch, 32, 12, keys=96, rms=True),
        _attention(f"{batch}x32x12x64", batch, 32, 12),
        _attention(f"{batch}x64x12x64", batch, 64, 12, bias=(12,)),
    )
