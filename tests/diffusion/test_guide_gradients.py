"""Guides: the closed form of their gradient, rows with targets and weights of their own, sums, noise levels."""

from dataclasses import replace

import pytest
import torch

from ld4lg_fast.diffusion.guides import Guide, GuideTargets

LOG_SNR = torch.tensor([-4.0, 0.0, 4.0])
MIDDLE = torch.tensor([1])


def make_guide(outputs=3, width=12, is_number=False, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = (draw(7, width), draw(7), draw(outputs, 7), draw(outputs), 0.3 * draw(3, 2, 7))
    return Guide(*tensors, LOG_SNR, torch.tensor([4.0, 2.0, 1.0]), is_number)


@pytest.fixture
def x_start():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))


def test_the_shift_is_the_gradient_of_the_log_probability(x_start):
    guide, target = make_guide(), torch.tensor([0, 1, 2, 1, 0])
    weight, x = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0]), x_start.clone().requires_grad_()
    log_prob = (guide.scores(guide.features(x), MIDDLE) / 2).log_softmax(1).gather(1, target[:, None])[:, 0]
    (wanted,) = torch.autograd.grad((weight * log_prob).sum(), x)
    torch.testing.assert_close(guide.shift(x_start, target.float(), weight, MIDDLE), wanted)


def test_the_network_is_the_one_of_its_docstring(x_start):
    guide = make_guide()
    features, (scale, shift) = x_start.flatten(1), guide.modulation[2]
    inner = torch.nn.functional.linear(features, guide.hidden, guide.hidden_bias) * (1 + scale) + shift
    wanted = torch.nn.functional.linear(torch.nn.functional.silu(inner), guide.output, guide.output_bias)
    torch.testing.assert_close(guide.scores(features, torch.tensor([2])), wanted)


def test_a_small_step_to_a_number_is_along_the_gradient(x_start):
    guide, target, x = make_guide(1, is_number=True), torch.full((5,), 9.0), x_start.clone().requires_grad_()
    missing = target - guide.scores(guide.features(x), MIDDLE)[:, 0]
    (wanted,) = torch.autograd.grad((-(missing / 2).square() / 2).sum(), x)
    shift = guide.shift(x_start, target, torch.full((5,), 1e-4), MIDDLE)
    torch.testing.assert_close(shift * 1e4, wanted, rtol=0.01, atol=1e-3)
    away = guide.shift(x_start, target, torch.full((5,), -1e-4), MIDDLE)
    torch.testing.assert_close(away, -shift)


def test_the_step_to_a_number_is_bounded(x_start):
    guide = make_guide(1, is_number=True)
    features = guide.features(x_start)
    scores = guide.scores(features, MIDDLE)[:, 0]
    target = scores + 0.01
    moved = x_start + guide.shift(x_start, target, torch.full((5,), 1e9), MIDDLE)
    torch.testing.assert_close(guide.scores(guide.features(moved), MIDDLE)[:, 0], target, rtol=0, atol=1e-3)


def test_guides_add_up_and_rows_are_their_own(x_start):
    first, second = make_guide(), make_guide(2, seed=3)
    targets, weights = torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0], [1, 0]]).float(), torch.ones(5, 2)
    weights[3] = 0
    both = GuideTargets([first, second], targets, weights)
    led = both.lead(x_start, MIDDLE[0])
    parts = [
        guide.shift(x_start, targets[:, number], weights[:, number], MIDDLE)
        for number, guide in enumerate((first, second))
    ]
    torch.testing.assert_close(led, x_start + parts[0] + parts[1])
    assert torch.equal(led[3], x_start[3]), "a row of weight 0 is not led"
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(both.rows(rows).lead(x_start[rows], MIDDLE[0]), led[rows])


def test_levels_lie_between_those_that_were_learned():
    guide = make_guide()
    found = guide.on(torch.tensor([-9.0, -4.0, -2.0, 0.0, 2.0, 9.0], dtype=torch.float64))
    torch.testing.assert_close(found.temperature, torch.tensor([4.0, 4.0, 3.0, 2.0, 1.5, 1.0]))
    middle = (guide.modulation[0] + guide.modulation[1]) / 2
    torch.testing.assert_close(found.modulation[2], middle)
    torch.testing.assert_close(found.modulation[5], guide.modulation[2])
    one = replace(
        guide, log_snr=LOG_SNR[:1], temperature=torch.tensor([5.0]), modulation=guide.modulation[:1]
    )
    assert one.on(torch.tensor([-9.0, 9.0])).temperature.tolist() == [5, 5]


def test_texts_with_lengths_are_led_by_the_mean_of_their_positions(x_start):
    guide, mask = make_guide(width=4), torch.arange(3) < torch.tensor([1, 2, 3, 3, 2])[:, None]
    changed = x_start.masked_fill(~mask[..., None], 7.0)
    torch.testing.assert_close(guide.features(changed, mask), guide.features(x_start, mask))
    torch.testing.assert_close(guide.features(x_start, mask)[1], x_start[1, :2].mean(0))
    shift = guide.shift(changed, torch.zeros(5), torch.ones(5), MIDDLE, mask)
    assert shift.shape == (5, 1, 4)
    moved = guide.features(x_start + shift, mask) - guide.features(x_start, mask)
    torch.testing.assert_close(moved, shift[:, 0])
