"""The chunks of `ops.linear_cross_entropy`, its arguments and autocast; values are in test_kernels.py."""

import pytest
import torch
from torch.nn import functional as F

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.linear_cross_entropy import chunked

pytestmark = pytest.mark.skipif(not backend.has_native(), reason="the reference has no chunks")


def arguments(rows: int = 23, ignored: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(rows, 6, generator=generator, requires_grad=True)
    weight = torch.randn(9, 6, generator=generator, requires_grad=True)
    targets = torch.randint(9, (rows,), generator=generator)
    targets[:ignored] = -100
    return x, weight, targets


@pytest.mark.parametrize("rows_per_chunk", [1, 4, 23, 100])
def test_chunks_change_nothing(rows_per_chunk, monkeypatch):
    monkeypatch.setattr(chunked, "_LOGITS_PER_CHUNK", 9 * rows_per_chunk)
    x, weight, targets = arguments()
    want = F.cross_entropy(x @ weight.T, targets)
    got = ops.linear_cross_entropy(x, weight, targets)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(
        torch.autograd.grad(3 * got, (x, weight)), torch.autograd.grad(3 * want, (x, weight))
    )


def test_the_logits_of_all_rows_are_never_in_memory(monkeypatch):
    monkeypatch.setattr(chunked, "_LOGITS_PER_CHUNK", 9 * 4)
    seen = []
    linear = F.linear
    monkeypatch.setattr(
        chunked.F, "linear", lambda x, *rest: seen.append(x.shape[0]) or linear(x, *rest), raising=True
    )
    x, weight, targets = arguments()
    ops.linear_cross_entropy(x, weight, targets)
    assert max(seen) <= 4
    assert sum(seen) == (targets != -100).sum() < len(targets)  # and none for ignored targets


def test_a_frozen_head_gets_no_gradient_and_no_targets_give_nan():
    x, weight, targets = arguments()
    frozen = weight.detach()
    want = torch.autograd.grad(F.cross_entropy(x @ frozen.T, targets), x)
    torch.testing.assert_close(torch.autograd.grad(ops.linear_cross_entropy(x, frozen, targets), x), want)
    assert ops.linear_cross_entropy(x, weight, torch.full_like(targets, -100)).isnan()
    with torch.no_grad():
        loss = ops.linear_cross_entropy(x, weight, targets)
    torch.testing.assert_close(loss, F.cross_entropy(x @ weight.T, targets).detach())
    assert not loss.requires_grad


def test_autocast_multiplies_in_its_dtype_and_keeps_the_loss_in_float32():
    x, weight, targets = arguments()
    with torch.autocast("cpu", torch.bfloat16):
        want = F.cross_entropy(F.linear(x, weight).float(), targets)
        got = ops.linear_cross_entropy(x, weight, targets)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want)
    (gradient,) = torch.autograd.grad(got, weight)
    assert gradient.dtype == torch.float32


def test_shapes_that_do_not_fit_are_named():
    x, weight, targets = arguments()
    with pytest.raises(ValueError, match=r"x \(23, 6\), weight \(9, 6\) and targets \(22,\) do not fit"):
        ops.linear_cross_entropy(x, weight, targets[1:])
