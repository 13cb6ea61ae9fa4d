"""Guides: the closed form of their gradient, rows with targets and weights of their own, sums, noise levels."""

import pytest
import torch

from ld4lg_fast.diffusion.guides import Guide, GuideTargets, held_out, loss_of, regression

LOG_SNR = torch.tensor([-4.0, 0.0, 4.0])


def make_guide(outputs=3, width=12, is_number=False, seed=0, direction=None):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(outputs, width, generator=generator), torch.randn(outputs, generator=generator)
    temperature = torch.tensor([4.0, 2.0, 1.0])
    return Guide(weight, bias, weight if direction is None else direction, LOG_SNR, temperature, is_number)


@pytest.fixture
def x_start():
    return torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(1))


def test_the_shift_is_the_gradient_of_the_log_probability(x_start):
    guide, target = make_guide(), torch.tensor([0, 1, 2, 1, 0])
    weight, temperature = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0]), torch.tensor(1.7)
    x = x_start.clone().requires_grad_()
    log_prob = (guide.scores(x) / temperature).log_softmax(1).gather(1, target[:, None])[:, 0]
    (wanted,) = torch.autograd.grad((weight * log_prob).sum(), x)
    torch.testing.assert_close(guide.shift(x_start, target.float(), weight, temperature), wanted)


def test_the_shift_is_along_the_covariance(x_start):
    spread = torch.randn(12, 12, generator=torch.Generator().manual_seed(5))
    spread = spread @ spread.T
    plain = make_guide()
    guide = make_guide(direction=plain.weight @ spread)
    given = (torch.zeros(5), torch.ones(5), torch.tensor(1.0))
    gradient = plain.shift(x_start, *given).flatten(1)
    torch.testing.assert_close(
        guide.shift(x_start, *given).flatten(1), gradient @ spread, rtol=1e-4, atol=1e-4
    )


def test_a_number_is_reached_the_more_the_larger_the_weight(x_start):
    guide, target = make_guide(1, is_number=True), torch.full((5,), 20.0)
    missing = target - guide.scores(x_start)[:, 0]
    spread = guide.weight.square().sum()
    for weight, share in ((0.0, 0.0), (1.0, spread / (spread + 4)), (1e6, 1.0)):
        moved = x_start + guide.shift(x_start, target, torch.full((5,), weight), torch.tensor(2.0))
        left = target - guide.scores(moved)[:, 0]
        torch.testing.assert_close(left, (1 - share) * missing, rtol=1e-3, atol=1e-3)
    away = x_start + guide.shift(x_start, target, torch.full((5,), -1.0), torch.tensor(2.0))
    assert ((target - guide.scores(away)[:, 0]).abs() > missing.abs()).all()


def test_guides_add_up_and_rows_are_their_own(x_start):
    first, second = make_guide(), make_guide(2, seed=3)
    targets, weights = torch.tensor([[0, 1], [1, 1], [2, 0], [0, 0], [1, 0]]).float(), torch.ones(5, 2)
    weights[3] = 0
    both = GuideTargets([first, second], targets, weights)
    temperatures = both.temperatures(torch.tensor([0.0]))[0]
    led = both.lead(x_start, temperatures)
    parts = [
        guide.shift(x_start, targets[:, number], weights[:, number], temperatures[number])
        for number, guide in enumerate((first, second))
    ]
    torch.testing.assert_close(led, x_start + parts[0] + parts[1])
    assert torch.equal(led[3], x_start[3]), "a row of weight 0 is not led"
    rows = torch.tensor([4, 1])
    torch.testing.assert_close(both.rows(rows).lead(x_start[rows], temperatures), led[rows])


def test_temperatures_lie_between_those_of_the_levels():
    guide = make_guide()
    found = guide.temperatures(torch.tensor([-9.0, -4.0, -2.0, 0.0, 2.0, 9.0], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([4.0, 4.0, 3.0, 2.0, 1.5, 1.0]))
    one = Guide(guide.weight, guide.bias, guide.weight, LOG_SNR[:1], torch.tensor([5.0]), False)
    assert one.temperatures(torch.tensor([-9.0, 9.0])).tolist() == [5, 5]


def test_texts_with_lengths_are_led_by_the_mean_of_their_positions(x_start):
    guide, mask = make_guide(width=4), torch.arange(3) < torch.tensor([1, 2, 3, 3, 2])[:, None]
    changed = x_start.masked_fill(~mask[..., None], 7.0)
    torch.testing.assert_close(guide.scores(changed, mask), guide.scores(x_start, mask))
    torch.testing.assert_close(guide.features(x_start, mask)[1], x_start[1, :2].mean(0))
    shift = guide.shift(x_start, torch.zeros(5), torch.ones(5), torch.tensor(1.0), mask)
    assert shift.shape == (5, 1, 4)
    moved = guide.features(x_start + shift, mask) - guide.features(x_start, mask)
    torch.testing.assert_close(moved, shift[:, 0])


def test_regression_finds_what_the_data_were_made_of():
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(4000, 6, generator=generator), torch.randn(3, 6, generator=generator)
    labels = (x @ weight.T).softmax(1).multinomial(1, generator=generator)[:, 0]
    found, _ = regression(lambda w, b: x @ w.T + b, labels, 6, 3, 1e-5)
    centred = weight - weight.mean(0)  # a softmax sees differences alone
    torch.testing.assert_close(found - found.mean(0), centred, rtol=0, atol=0.25)
    soft, _ = regression(lambda w, b: x @ w.T + b, (x @ weight.T).softmax(1), 6, 3, 0.0)
    torch.testing.assert_close(soft - soft.mean(0), centred, rtol=0, atol=0.02)
    numbers = x @ weight[0] + 2
    line, bias = regression(lambda w, b: x @ w.T + b, numbers, 6, None, 0.0)
    torch.testing.assert_close(line[0], weight[0], rtol=0, atol=1e-3)
    assert bias.item() == pytest.approx(2, abs=1e-3)
    assert loss_of(x @ line.T + bias, numbers) < 1e-6
    smaller, _ = regression(lambda w, b: x @ w.T + b, numbers, 6, None, 1.0)
    assert smaller.norm() < 0.8 * line.norm()


def test_every_fifth_example_is_held_out():
    assert held_out(11).nonzero()[:, 0].tolist() == [0, 5, 10]
