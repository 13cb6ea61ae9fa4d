import pytest
import torch

from ld4lg_fast.engine import guided_denoiser, sample_latents
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.samplers import SAMPLERS
from ld4lg_fast.schedules import sampling_grid
from tests.conftest import make_model


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_sample_does_not_depend_on_the_batch_size(sampler):
    model = make_model(num_dense_connections=1)
    runs = [
        sample_latents(model, 9, sampler=sampler, num_steps=6, seed=3, batch_size=size) for size in (1, 7, 64)
    ]
    assert runs[0].shape == (9, 6, 8)
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-4, atol=1e-5)


def test_samples_differ_between_seeds_and_indices():
    model = make_model()
    first, second = (sample_latents(model, 2, num_steps=4, seed=seed) for seed in (0, 1))
    assert (first - second).abs().max() > 0.1 and (first[0] - first[1]).abs().max() > 0.1
    assert torch.equal(first, sample_latents(model, 2, num_steps=4, seed=0))


def test_more_samples_begin_with_the_same_ones():
    model = make_model()
    torch.testing.assert_close(
        sample_latents(model, 5, num_steps=4)[:2], sample_latents(model, 2, num_steps=4), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["class", "context", "context with mask"])
def test_guidance_in_one_batch_equals_two_passes(kind):
    conditions = {"class_id": torch.tensor([0, 2])} if kind == "class" else {"context": torch.randn(2, 5, 16)}
    model = make_model(num_classes=3) if kind == "class" else make_model(dim_context=16)
    if kind == "context with mask":
        conditions["context_mask"] = torch.arange(5) < torch.tensor([[5], [2]])
    null = {"class_id": torch.tensor([3, 3])} if kind == "class" else {}
    grid = sampling_grid(model.diffusion.schedule, 5)
    z_t, self_cond = torch.randn(2, 6, 8), torch.randn(2, 6, 8)
    for x_self_cond in (None, self_cond):
        got = guided_denoiser(model, grid, 2.0, **conditions)(z_t, 2, x_self_cond)
        time = grid.network_time[2].expand(2)
        cond = model.denoiser(z_t, time, x_self_cond=x_self_cond, **conditions)
        uncond = model.denoiser(z_t, time, x_self_cond=x_self_cond, **null)
        torch.testing.assert_close(got.v, 2 * cond - uncond, rtol=1e-4, atol=1e-5)


def test_progress_counts_every_step_of_every_sample():
    counts = []
    sample_latents(make_model(), 5, num_steps=4, batch_size=2, progress=counts.append)
    assert sum(counts) == 20


def test_v1_samples_with_lengths():
    recipe = {"version": "v1", "objective": "pred_x0", "beta_schedule": "linear", "num_train_timesteps": 50}
    from ld4lg_fast.latent_diffusion import LatentDiffusion
    from tests.conftest import RECIPE, randomize

    sizes = {"dim": 64, "depth": 1, "dim_latent": 8, "max_len": 6, "dropout": 0.0}
    model = LatentDiffusion.create(RECIPE | recipe, sizes).eval()
    randomize(model.denoiser)
    lengths = torch.tensor([6, 3, 1])
    run = [
        sample_latents(model, 3, sampler="ddim", num_steps=5, lengths=lengths, batch_size=b) for b in (1, 3)
    ]
    torch.testing.assert_close(run[0], run[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="trained with 50 timesteps"):
        sample_latents(model, 1, num_steps=51)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"guidance_scale": 2.0}, "guidance_scale 2.0 needs"),
        ({"class_id": 1}, "trained without classes"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        sample_latents(make_model(), **{"num_samples": 2, "num_steps": 2} | options)


@pytest.mark.parametrize("class_id", [4, -1, torch.tensor([0, 9])])
def test_class_out_of_range_is_refused(class_id):
    with pytest.raises(ConfigError, match="classes 0 to 2"):
        sample_latents(make_model(num_classes=3), 2, num_steps=2, class_id=class_id)


def test_wrong_number_of_class_ids_is_refused():
    with pytest.raises(ConfigError, match="give one id or 2"):
        sample_latents(make_model(num_classes=3), 2, num_steps=2, class_id=torch.tensor([0, 1, 2]))
