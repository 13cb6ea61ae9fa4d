"""The arguments and dtypes of `ops.add_layer_norm`; values and gradients are in tests/kernels/test_kernels.py."""

import pytest
import torch
from torch import nn

from ld4lg_fast.kernels import ops

ROWS = torch.zeros(2, 3, 8)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((ROWS, ROWS[0], *torch.zeros(2, 8)), r"residual has shape \(3, 8\); it needs branch's, \(2, 3, 8\)"),
        ((ROWS, ROWS, *torch.zeros(2, 7)), r"weight \(7,\) and bias \(7,\) need \(8,\)"),
        ((ROWS[..., :0], ROWS[..., :0], *torch.zeros(2, 0)), "at least one element"),
    ],
)
def test_shapes_that_do_not_fit_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ops.add_layer_norm(*arguments)


@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.float32)], ids=str)
def test_dtypes_under_autocast_are_those_of_the_module(dtypes):
    branch, residual = (ROWS.to(dtype) for dtype in dtypes)
    norm = nn.LayerNorm(8)
    with torch.autocast("cpu", torch.bfloat16):
        x, y = ops.add_layer_norm(branch, residual, norm.weight, norm.bias)
        assert (x.dtype, y.dtype) == ((residual + branch).dtype, norm(residual + branch).dtype)
