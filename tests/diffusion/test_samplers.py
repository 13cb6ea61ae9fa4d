"""Samplers on data whose denoiser is known in closed form: x_start ~ N(MEAN, STD²)."""

import pytest
import torch

from ld4lg_fast.diffusion.process import prediction
from ld4lg_fast.diffusion.samplers import SAMPLERS, get_sampler, step_coefficients
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule, SamplingGrid, sampling_grid
from ld4lg_fast.errors import ConfigError

MEAN, STD = 1.5, 0.5


def gaussian_denoiser(grid: SamplingGrid):
    def denoise(z, step, x_self_cond):
        alpha_sq = grid.alpha_sq[step]
        gain = alpha_sq.sqrt() * STD**2 / (alpha_sq * STD**2 + 1 - alpha_sq)
        x_start = MEAN + gain * (z - alpha_sq.sqrt() * MEAN)
        return prediction(x_start, z, alpha_sq, "pred_x0")

    return denoise


def double_grid(num_steps: int) -> SamplingGrid:
    schedule, t = ContinuousSchedule(), torch.linspace(0.98, 0.02, num_steps + 1, dtype=torch.float64)
    alpha_sq = schedule.alpha_sq(t)
    return SamplingGrid(alpha_sq, alpha_sq[:-1], schedule.log_snr(t), t)


def last_state_before_end(sampler: str, num_steps: int) -> torch.Tensor:
    """Error of z at the level before the last, where the exact ODE solution is known."""
    grid, states = double_grid(num_steps), []
    z = torch.linspace(-2, 2, 9, dtype=torch.float64).reshape(1, 9, 1)
    get_sampler(sampler)(gaussian_denoiser(grid), z, grid, callback=lambda step, z, pred: states.append(z))
    start, end = grid.alpha_sq[0], grid.alpha_sq[-2]

    def spread(alpha_sq):
        return (alpha_sq * STD**2 + 1 - alpha_sq).sqrt()

    exact = end.sqrt() * MEAN + spread(end) / spread(start) * (z - start.sqrt() * MEAN)
    return (states[-2] - exact).abs().max()


@pytest.mark.parametrize(
    ("sampler", "order"), [("ddim", 1), ("dpmpp_published", 1), ("dpmpp_2m", 2), ("unipc", 3)]
)
def test_order_of_convergence(sampler, order):
    coarse, fine = last_state_before_end(sampler, 500), last_state_before_end(sampler, 2000)
    observed = torch.log(coarse / fine) / torch.log(torch.tensor(4.0))
    assert observed == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m_sde", "er_sde"])
def test_stochastic_samplers_reach_the_data_distribution(sampler):
    generator = torch.Generator().manual_seed(0)
    grid = sampling_grid(ContinuousSchedule(), 200)
    shape = (20000, 1, 1)
    options = {"eta": 1.0} if sampler == "ddim" else {}
    x = get_sampler(sampler)(
        gaussian_denoiser(grid),
        torch.randn(shape, generator=generator),
        grid,
        noise=lambda step: torch.randn(shape, generator=generator),
        **options,
    )
    assert x.mean() == pytest.approx(MEAN, abs=0.02)
    assert x.std() == pytest.approx(STD, abs=0.03)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_self_condition_is_the_x_start_of_the_step_before(sampler):
    grid, seen, made = sampling_grid(ContinuousSchedule(), 5), [], []
    known = gaussian_denoiser(grid)

    def denoise(z, step, x_self_cond):
        seen.append(x_self_cond)
        made.append(known(z, step, x_self_cond))
        return made[-1]

    steps = []
    get_sampler(sampler)(
        denoise,
        torch.randn(2, 3, 4),
        grid,
        noise=lambda step: torch.zeros(2, 3, 4),
        callback=lambda step, z, pred: steps.append(step),
    )
    assert seen[0] is None and steps == list(range(5))
    assert all(a is b.x_start for a, b in zip(seen[1:], made, strict=False))


@pytest.mark.parametrize("schedule", [ContinuousSchedule(), DiscreteSchedule(num_train_timesteps=50)])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_coefficients_are_those_of_the_update(sampler, objective, schedule):
    """A step with the kernel's coefficients equals prediction, guidance and update in float64, from any state."""
    grid, update, scale = sampling_grid(schedule, 6), SAMPLERS[sampler], 2.5
    grid = SamplingGrid(*(tensor.double() for tensor in vars(grid).values()))
    table = step_coefficients(update, grid, objective, [scale] * 6)
    generator = torch.Generator().manual_seed(0)
    z, x_prev, x_before, noise, cond, uncond = torch.randn(6, 2, 3, 4, generator=generator).double()
    for step, (a, b, c, *d) in enumerate(table.double()):
        pred = prediction(scale * cond + (1 - scale) * uncond, z, grid.alpha_sq[step], objective)
        want = update(step, z, pred, (x_prev, x_before)[:step], grid, lambda step: noise)
        x_start = a * z + b * cond + c * uncond
        torch.testing.assert_close(x_start, pred.x_start, rtol=1e-6, atol=1e-4)
        got = d[0] * z + d[1] * x_start + d[2] * x_prev + d[3] * noise + d[4] * x_before
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-4)


def test_unknown_sampler_and_too_few_steps_are_refused():
    with pytest.raises(ConfigError, match="'dpm'; choose one of ddim"):
        get_sampler("dpm")
    grid = sampling_grid(ContinuousSchedule(), 1)
    with pytest.raises(ConfigError, match="at least 2 steps"):
        get_sampler("dpmpp_published")(gaussian_denoiser(grid), torch.randn(1, 1, 1), grid)
