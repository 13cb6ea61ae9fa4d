"""The dropout of `ops.geglu`, and its arguments; values and gradients are in tests/kernels/test_kernels.py."""

import pytest
import torch

from ld4lg_fast.kernels import ops

ROWS, WIDTH, DROPOUT = 400, 500, 0.3


def kept(seed: int) -> torch.Tensor:
    projected = torch.full((ROWS, 2 * WIDTH), 2.0)
    out = ops.geglu(projected, torch.zeros(2 * WIDTH), DROPOUT, torch.tensor([seed]))
    return out != 0


def test_dropout_keeps_the_share_that_was_asked_for_everywhere():
    keep = kept(11).double()
    for part, count in ((keep, ROWS * WIDTH), (keep.mean(0), ROWS), (keep.mean(1), WIDTH)):
        # Six standard deviations of a mean of `count` independent samples.
        bound = 6 * (DROPOUT * (1 - DROPOUT) / count) ** 0.5
        assert (part.mean() if part is keep else part).sub(1 - DROPOUT).abs().max() < bound


@pytest.mark.parametrize("shift", [(0, 1), (1, 0), (1, 1)])
def test_neighbours_are_dropped_independently(shift):
    keep = kept(12).double() - (1 - DROPOUT)
    other = keep.roll(shift, (0, 1))
    assert (keep * other).mean().abs() < 6 * DROPOUT * (1 - DROPOUT) / (ROWS * WIDTH) ** 0.5


def test_the_seed_decides():
    assert torch.equal(kept(13), kept(13))
    for other in (14, 13 + 2**32):
        agree = (kept(13) == kept(other)).double().mean()
        assert abs(agree - (DROPOUT**2 + (1 - DROPOUT) ** 2)) < 0.01


def test_dropout_keeps_the_mean():
    projected = torch.full((ROWS, 2 * WIDTH), 2.0)
    bias = torch.zeros(2 * WIDTH)
    dropped = ops.geglu(projected, bias, DROPOUT, torch.tensor([15]))
    assert dropped.mean() == pytest.approx(ops.geglu(projected, bias).mean().item(), rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((torch.zeros(2, 5), torch.zeros(5)), r"projected has shape \(2, 5\); its last axis needs an even"),
        ((torch.zeros(2, 4), torch.zeros(2)), r"bias has shape \(2,\); it needs \(4,\)"),
        (
            (torch.zeros(2, 4), torch.zeros(4), 1.0, torch.tensor([1])),
            "dropout is 1.0; it needs 0 <= dropout < 1",
        ),
        ((torch.zeros(2, 4), torch.zeros(4), 0.5), "dropout needs a seed: a tensor of one int64"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        ops.geglu(*arguments)


def test_factors_that_do_not_fit_are_named():
    with pytest.raises(
        ValueError, match=r"x \(2, 3\) and weight \(8, 4\) do not fit; weight needs \(2F, D\)"
    ):
        ops.geglu_linear(torch.zeros(2, 3), torch.zeros(8, 4), torch.zeros(8))
