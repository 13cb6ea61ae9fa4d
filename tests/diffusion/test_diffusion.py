"""Objectives, loss weighting, and the random numbers of a training step."""

import pytest
import torch

from ld4lg_fast.diffusion.process import OBJECTIVES, GaussianDiffusion, add_noise, prediction
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.diffusion.schedules import ContinuousSchedule
from ld4lg_fast.errors import ConfigError
from tests.conftest import make_model

LEVELS = torch.tensor([1e-4, 0.02, 0.3, 0.5, 0.9, 0.999])


def draw(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, len(LEVELS), 6, 8, generator=generator)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_perfect_prediction_gives_back_what_it_was_made_of(objective):
    x_start, noise = draw().double()
    levels = LEVELS.double()
    z_t = add_noise(x_start, noise, levels)
    alpha, sigma = levels.sqrt()[:, None, None], (1 - levels).sqrt()[:, None, None]
    v = alpha * noise - sigma * x_start
    target = {"pred_noise": noise, "pred_x0": x_start, "pred_v": v, "pred_flow": noise - x_start}[objective]
    got = prediction(target, z_t, levels, objective)
    for name, want in (("x_start", x_start), ("noise", noise), ("v", v)):
        torch.testing.assert_close(getattr(got, name), want, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("weighting", ["x_start", "min_snr"])
def test_weighted_errors_are_those_of_x_start(objective, weighting):
    """The weighted squared error of any output is the squared error of its x_start, times min(SNR, 5)."""
    x_start, noise = draw().double()
    levels = LEVELS.double()
    z_t = add_noise(x_start, noise, levels)
    output = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = {
        "pred_noise": noise,
        "pred_x0": x_start,
        "pred_v": prediction(x_start, z_t, levels, "pred_x0").v,
        "pred_flow": noise - x_start,
    }[objective]
    weights = GaussianDiffusion(objective, loss_weighting=weighting).loss_weights(levels).double()
    got = weights * (output - target).square().mean(dim=(1, 2))
    meant = prediction(output, z_t, levels, objective).x_start
    want = (meant - x_start).square().mean(dim=(1, 2))
    if weighting == "min_snr":
        want = want * (levels / (1 - levels)).clamp(max=5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_weighting_weighs_all_levels_alike(objective):
    weights = GaussianDiffusion(objective).loss_weights(LEVELS)
    torch.testing.assert_close(weights, torch.ones(len(LEVELS)))


@pytest.mark.parametrize("weighting", ["none", "min_snr"])
def test_the_training_loss_follows_its_formula(weighting):
    recipe = {"objective": "pred_flow", "loss_weighting": weighting, "self_condition_prob": 0.0}
    model = make_model(recipe=recipe | {"schedule": "straight"}, self_condition=False)
    latents = draw()[0] * 2 + 1
    draws = model.draw(latents, torch.Generator().manual_seed(3))
    got = model.loss(latents, draws).loss
    x_start = model.normalize(latents)
    snr = ((1 - draws.t) / draws.t).square()
    level = snr / (1 + snr)
    output = model.denoiser(add_noise(x_start, draws.noise, level), level)
    error = (output - (draws.noise - x_start)).square().mean(dim=(1, 2))
    if weighting == "min_snr":
        # (noise - x_start)'s error is x_start's divided by the straight path's own time, squared.
        error = error * snr.clamp(max=5) * draws.t.square()
    torch.testing.assert_close(got, error.mean(), rtol=1e-3, atol=1e-5)
    got.backward()
    assert all(p.grad.isfinite().all() for p in model.denoiser.parameters())


def test_the_noise_of_a_self_condition():
    latents = draw()[0]
    plain = make_model(recipe={"self_condition_prob": 1.0})
    noisy = make_model(recipe={"self_condition_prob": 1.0, "self_condition_noise": 0.8})
    draws = noisy.draw(latents, torch.Generator().manual_seed(3))
    assert draws.self_condition_share.max() <= 0.8 and draws.self_condition_noise.shape == latents.shape
    # The random numbers of recipe v2 are unchanged.
    same = plain.draw(latents, torch.Generator().manual_seed(3))
    assert torch.equal(same.t, draws.t) and torch.equal(same.noise, draws.noise)
    assert same.self_condition_noise is None

    seen = []
    noisy.denoiser.network_input, ask = (
        lambda z, x: (seen.append(x), ask(z, x))[1],
        noisy.denoiser.network_input,
    )
    loss = noisy.loss(latents, draws)
    first, second = seen
    share = draws.self_condition_share[:, None, None]
    level = noisy.diffusion.schedule.alpha_sq(draws.t)
    output = noisy.denoiser(loss.z_t, level)
    estimate = prediction(output, loss.z_t, level, "pred_v").x_start
    want = (1 - share).sqrt() * estimate + share.sqrt() * draws.self_condition_noise
    assert first is None
    torch.testing.assert_close(second, want, rtol=1e-4, atol=1e-4)


def test_a_batch_dealt_out_keeps_its_draws():
    model = make_model(recipe={"self_condition_prob": 1.0, "self_condition_noise": 0.5}, num_classes=2)
    draws = model.draw(draw()[0], torch.Generator().manual_seed(0))
    part = draws.map(lambda tensor: tensor[1::2])
    for name in ("t", "noise", "class_drop", "self_condition_noise", "self_condition_share"):
        assert torch.equal(getattr(part, name), getattr(draws, name)[1::2])
    assert part.self_condition is True


def test_the_straight_schedule_is_the_straight_path():
    t = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    level = ContinuousSchedule("straight").alpha_sq(t)
    torch.testing.assert_close(level.sqrt() / (1 - level).sqrt(), (1 - t) / t)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "unipc", "ddpm"])
def test_samplers_reach_the_data_of_a_perfect_flow(sampler):
    """With the exact velocity of a single data point, sampling reaches it from any start."""
    from ld4lg_fast.engine.engine import sample_latents

    model = make_model(recipe={"objective": "pred_flow", "schedule": "straight"}, self_condition=False)
    datum = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))

    def perfect(inputs, modulation, conditions):
        level = level_of[modulation.embedding.flatten()[0].item()]
        alpha, sigma = level**0.5, (1 - level) ** 0.5
        return (inputs - alpha * datum) / sigma - datum

    assert sampler in SAMPLERS
    level_of = {}
    ask = model.denoiser.modulate

    def modulate(time, class_id=None):
        found = ask(time, class_id)
        for row, level in zip(found.embedding, time, strict=True):
            level_of[row.flatten()[0].item()] = level.item()
        return found

    model.denoiser.modulate, model.denoiser.run_blocks = modulate, perfect
    latents = sample_latents(model, 3, sampler=sampler, num_inference_steps=12)
    torch.testing.assert_close(model.normalize(latents), datum.expand(3, 6, 8), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "pred_w"}, "pred_flow"),
        ({"loss_weighting": "p2"}, "Unknown loss_weighting 'p2'; choose one of none, x_start, min_snr"),
        ({"loss_weighting": "min_snr", "loss_type": "l1"}, "it needs loss_type=l2, not l1"),
        ({"self_condition_noise": 1.5}, "self_condition_noise is 1.5"),
    ],
)
def test_wrong_options_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        GaussianDiffusion(**options)
