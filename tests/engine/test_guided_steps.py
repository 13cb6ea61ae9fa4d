"""Guides inside the engine's steps: every sampler, classifier-free guidance, lengths, batches and replayed graphs."""

import pytest
import torch

from ld4lg_fast.diffusion.guides import Guide, GuideTargets
from ld4lg_fast.diffusion.process import Prediction, noise_from_x_start
from ld4lg_fast.diffusion.samplers import SAMPLERS, get_sampler, guided_denoiser, path_noise
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.sampling_run import SamplingRun
from ld4lg_fast.engine.step_table import START_STREAM, Plan
from ld4lg_fast.kernels import ops
from tests.conftest import make_model
from tests.engine.test_engine import CLASSES, assert_near, make_v1


def make_targets(width=48):
    generator = torch.Generator().manual_seed(0)

    def guide(outputs):
        tensors = (torch.randn(9, width), torch.randn(9), torch.randn(outputs, 9), torch.zeros(outputs))
        modulation = 0.3 * torch.randn(2, 2, 9, generator=generator)
        levels = (modulation, torch.tensor([-5.0, 5.0]), torch.tensor([2.0, 1.0]))
        drawn = (0.3 * torch.randn(t.shape, generator=generator) for t in tensors)
        return Guide(*drawn, *levels, is_number=outputs == 1)

    targets = torch.tensor([[0, 2.0], [2, -2.0], [1, 1.0]])
    weights = torch.tensor([[4.0, 1.0], [0.0, 0.0], [-2.0, 3.0]])
    return GuideTargets([guide(3), guide(1)], targets, weights)


@torch.no_grad()
def plainly_led(model, sampler, steps, guides, lengths=None, **conditions):
    """`samplers.sample` whose every prediction is led, with the engine's noise."""
    grid, ids, shape = sampling_grid(model.diffusion.schedule, steps), torch.arange(3), (6, 8)
    mask = None if lengths is None else torch.arange(6) < lengths[:, None]
    plain, guides = guided_denoiser(model, grid, mask=mask, **conditions), guides.on(grid.log_snr[:-1])

    def denoise(z, step, x_self_cond):
        x_start = guides.lead(plain(z, step, x_self_cond).x_start, torch.tensor(step), mask)
        return Prediction(noise_from_x_start(z, x_start, grid.alpha_sq[step]), x_start, x_start)

    z = ops.philox_normal(7, ids, START_STREAM, shape)
    z = get_sampler(sampler)(denoise, z, grid, noise=path_noise(7, ids, shape, steps))
    return model.unnormalize(z if mask is None else z * mask[..., None])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_every_sampler_is_led_under_classifier_free_guidance(sampler):
    model, guides, conditions = make_model(num_classes=3), make_targets(), CLASSES | {"guidance_scale": 2.0}
    options = {"sampler": sampler, "num_inference_steps": 5, "seed": 7, **conditions}
    led, free = (sample_latents(model, 3, guides=each, batch_size=2, **options) for each in (guides, None))
    assert_near(led, plainly_led(model, sampler, 5, guides, **conditions))
    assert (led - free)[[0, 2]].abs().amax((1, 2)).min() > 0.01
    assert_near(led[1], free[1])


def test_texts_with_lengths_are_led_where_they_are_real():
    model, guides, lengths = make_v1(), make_targets(8), torch.tensor([2, 6, 5])
    led = sample_latents(
        model, 3, sampler="ddim", num_inference_steps=4, seed=7, guides=guides, lengths=lengths, batch_size=2
    )
    assert_near(led, plainly_led(model, "ddim", 4, guides, lengths=lengths))


def test_guides_come_before_steer():
    model, guides, seen = make_model(), make_targets(), []
    options = {"sampler": "ddim", "num_inference_steps": 1, "seed": 7}

    def steer(x_start):
        seen.append(x_start)
        return torch.zeros_like(x_start)

    led = sample_latents(model, 3, guides=guides, **options)
    last = model.normalize(sample_latents(model, 3, guides=guides, steer=steer, **options))
    torch.testing.assert_close(model.unnormalize(seen[0]), led, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(last, torch.zeros_like(last), rtol=0, atol=1e-5)


def test_replayed_steps_are_led_by_the_targets_of_their_batch(monkeypatch):
    monkeypatch.setattr("ld4lg_fast.engine.cuda_graphs.Capture.__call__", lambda _, run: run)
    model, guides = make_model(num_classes=3), make_targets()
    plan = Plan("unipc", 5, guidance_scale=2.0)
    for rows in ([0, 1, 2], [2, 0, 1]):
        mine, finals = guides.rows(torch.tensor(rows)), []
        for cuda_graph in (False, True):
            run = SamplingRun(model, plan, guides=guides, classes=CLASSES["class_id"], seed=1)
            run.cuda_graph = cuda_graph
            finals.append(run(torch.arange(3), class_id=CLASSES["class_id"], guides=mine))
        assert_near(finals[1], finals[0])
