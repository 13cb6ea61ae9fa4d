"""What a mask hides has the probability 0, as in the reference: not a tiny number, which makes a CPU slow."""

import pytest
import torch

from ld4lg_fast.kernels import ops
from ld4lg_fast.kernels.backend import use_backend

LARGE = 1e38  # times the smallest normal float, it would be seen
MASKED = [torch.finfo(torch.float32).min, float("-inf"), -1e4]


@pytest.mark.parametrize("bias", MASKED)
@pytest.mark.parametrize("keys", [5, 33, 81])  # fill a vector, a panel, or neither
def test_short_attention_gives_masked_keys_nothing(keys, bias):
    q, k, v = torch.randn(3, 2, keys, 64).unbind()
    v[:, -1] = LARGE
    mask = torch.zeros(1, 1, 1, keys)
    mask[..., -1] = bias
    v.requires_grad_()
    with use_backend("native"):
        out = ops.short_attention(q, k, v, mask)
        out.sum().backward()
    assert out.abs().max() < 10  # without LARGE
    assert not v.grad[:, -1].any()


@pytest.mark.parametrize("bias", MASKED)
def test_cached_attention_gives_masked_positions_nothing(bias):
    span = 40
    query, keys = torch.randn(2, 64), torch.randn(2, 1, span, 1, 64)
    values = torch.randn(2, 1, span, 1, 64)
    mask = torch.zeros(1, 1, span)
    mask[..., -1] = bias
    outs = []
    for value in (LARGE, 0.0):
        values[:, :, -1] = value
        outs.append(ops.cached_attention(query, keys, values, span, 0.125, bias=mask))
    assert outs[0].equal(outs[1])
