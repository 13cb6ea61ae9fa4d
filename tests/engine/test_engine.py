import pytest
import torch

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import SAMPLERS, get_sampler, guided_denoiser, path_noise
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.engine.engine import sample_batches, sample_latents
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.denoiser import DiffusionTransformer
from tests.conftest import RECIPE, make_model, randomize


@pytest.mark.parametrize(("sampler", "eta"), [*((name, None) for name in sorted(SAMPLERS)), ("ddim", 1)])
def test_a_sample_does_not_depend_on_the_batch_size(sampler, eta):
    model = make_model(num_dense_connections=1)
    options = {"sampler": sampler, "eta": eta, "num_inference_steps": 6, "seed": 3}
    runs = [sample_latents(model, 9, batch_size=size, **options) for size in (1, 7, 64)]
    assert runs[0].shape == (9, 6, 8)
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-4, atol=1e-5)


def test_samples_differ_between_seeds_and_indices():
    model = make_model()
    first, second = (sample_latents(model, 2, num_inference_steps=4, seed=seed) for seed in (0, 1))
    assert (first - second).abs().max() > 0.1 and (first[0] - first[1]).abs().max() > 0.1
    assert torch.equal(first, sample_latents(model, 2, num_inference_steps=4, seed=0))


def test_more_samples_begin_with_the_same_ones():
    model = make_model()
    torch.testing.assert_close(
        sample_latents(model, 5, num_inference_steps=4)[:2],
        sample_latents(model, 2, num_inference_steps=4),
        rtol=1e-4,
        atol=1e-5,
    )


V1 = {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": 50}


def make_v1(objective: str = "pred_x0", **denoiser):
    sizes = {"dim": 64, "depth": 2, "dim_latent": 8, "max_len": 6, "dropout": 0.0}
    model = LatentDiffusion.create(RECIPE | V1 | {"objective": objective}, sizes | denoiser).eval()
    randomize(model.denoiser)
    return model


@torch.no_grad()
def plain_samples(model, num_samples, sampler, num_inference_steps, eta=0.0, lengths=None, **conditions):
    """`samplers.sample` with the plain network and the engine's noise."""
    grid, shape = sampling_grid(model.diffusion.schedule, num_inference_steps), (6, 8)
    ids = torch.arange(num_samples)
    mask = None if lengths is None else torch.arange(6) < lengths[:, None]
    z = get_sampler(sampler)(
        guided_denoiser(model, grid, mask=mask, **conditions),
        ops.philox_normal(7, ids, 0, shape),
        grid,
        noise=path_noise(7, ids, shape, num_inference_steps),
        **({"eta": eta} if sampler == "ddim" else {}),
    )
    return model.unnormalize(z if mask is None else z * mask[..., None])


def engine_samples(model, num_samples, sampler, num_inference_steps, **options):
    return sample_latents(
        model, num_samples, sampler=sampler, num_inference_steps=num_inference_steps, seed=7, **options
    )


def assert_near(got, want):
    """To 1e-4 of the largest latent, as steps amplify float32 rounding."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * want.abs().max().item())


CLASSES = {"class_id": torch.tensor([0, 2, 3])}
SOURCE = {"context": torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(3))}
SOURCE_MASK = SOURCE | {"context_mask": torch.arange(5) < torch.tensor([[5], [2], [1]])}
LENGTHS = {"lengths": torch.tensor([2, 6, 5])}
SETTINGS = [
    ("v2", {"num_dense_connections": 1}, {}),
    ("v2", {"self_condition": False}, {}),
    ("v2", {"num_classes": 3}, CLASSES),
    ("v2", {"num_classes": 3}, CLASSES | {"guidance_scale": 2.0}),
    ("v2", {"dim_context": 16}, SOURCE | {"guidance_scale": 2.0}),
    ("v2", {"dim_context": 16}, SOURCE_MASK | {"guidance_scale": 2.0, "project": True}),
    ("v2", {"dim_context": 16}, SOURCE_MASK | LENGTHS | {"guidance_scale": 0.5}),
    ("v2", {"dim_context": 16, "num_classes": 3}, SOURCE | CLASSES | {"guidance_scale": 2.0}),
    ("v1", {}, {}),
    ("v1", {}, LENGTHS),
    ("v1", {"num_classes": 3}, CLASSES | LENGTHS | {"guidance_scale": 2.0}),
    ("v1", {"num_classes": 3, "self_condition": False}, CLASSES),
    ("v1", {"self_condition": False}, LENGTHS),
]


@pytest.mark.parametrize(("recipe", "denoiser", "options"), SETTINGS)
def test_engine_equals_the_plain_sampler_in_every_mode(recipe, denoiser, options):
    model = make_v1(**denoiser) if recipe == "v1" else make_model(**denoiser)
    got = engine_samples(model, 3, "ddpm", 4, batch_size=2, **options)
    assert_near(got, plain_samples(model, 3, "ddpm", 4, **options))


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_engine_equals_every_plain_sampler(sampler, objective, recipe):
    model = make_v1(objective) if recipe == "v1" else make_model(recipe={"objective": objective})
    want = plain_samples(model, 2, sampler, 5, eta=0.5)
    options = {"eta": 0.5} if sampler == "ddim" else {}
    got = engine_samples(model, 2, sampler, 5, **options)
    assert_near(got, want)


def test_all_modulations_at_once_or_in_parts(monkeypatch):
    model = make_model(num_classes=3)
    options = CLASSES | {"guidance_scale": 2.0}
    whole = engine_samples(model, 3, "ddim", 7, **options)
    monkeypatch.setattr("ld4lg_fast.engine.sampling_run.TABLE_ELEMENTS", 3 * 4 * 2 * 64 * 2)  # three steps
    parts = engine_samples(model, 3, "ddim", 7, **options)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_guidance_stays_in_its_interval():
    model = make_model(num_classes=3)
    guided = CLASSES | {"guidance_scale": 3.0}
    none = engine_samples(model, 3, "ddim", 4, **CLASSES)
    runs = [
        engine_samples(model, 3, "ddim", 4, **guided, guidance_interval=interval)
        for interval in ((0.0, 1.0), (0.8, 1.0), (0.0, 0.2))
    ]
    everywhere, first_step, nowhere = runs  # steps begin at 1, 0.75, 0.5, 0.25
    torch.testing.assert_close(nowhere, none, rtol=0, atol=0)
    assert (first_step - none).abs().max() > 1e-3 and (first_step - everywhere).abs().max() > 1e-3


def test_no_unconditional_half_is_computed_outside_the_interval(monkeypatch):
    model, rows = make_model(num_classes=3), []
    run_blocks = model.denoiser.run_blocks

    def watch(*inputs):
        rows.append(len(output := run_blocks(*inputs)))
        return output

    monkeypatch.setattr(model.denoiser, "run_blocks", watch)
    guided = CLASSES | {"guidance_scale": 3.0, "guidance_interval": (0.4, 0.8)}
    engine_samples(model, 3, "ddim", 4, **guided)  # steps begin at 1, 0.75, 0.5, 0.25
    assert rows == [3, 6, 6, 3]


def test_a_batch_that_does_not_fit_is_halved(monkeypatch):
    model, sizes, counts = make_model(), [], []
    want = sample_latents(model, 7, num_inference_steps=2)
    run_blocks = DiffusionTransformer.run_blocks

    def out_of_memory(self, inputs, modulation, conditions):
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("no memory")
        return run_blocks(self, inputs, modulation, conditions)

    monkeypatch.setattr(DiffusionTransformer, "run_blocks", out_of_memory)
    got = sample_latents(model, 7, num_inference_steps=2, batch_size=10, progress=counts.append)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert sizes == [7, 3, 1] + [1] * 13 and sum(counts) == 14

    def never(*inputs):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(DiffusionTransformer, "run_blocks", never)
    with pytest.raises(ConfigError, match="A single sample does not fit the memory of cpu"):
        sample_latents(model, 7, num_inference_steps=2)


def test_guided_padded_rows_can_be_passed_on():
    """Padded rows are passed on to `attend` as on a GPU, here because gradients are enabled."""
    denoiser, ids = make_v1(num_classes=3).denoiser, torch.tensor([0, 1, 3, 3])
    inputs, mask = torch.randn(2, 6, 16), torch.arange(6) < torch.tensor([[6], [4]])
    modulation = denoiser.modulate(torch.tensor([0.5]))
    outputs = []
    for needed in (False, True):
        with torch.set_grad_enabled(needed):
            conditions = denoiser.conditions((2, 6), mask=mask, class_id=ids, guided=True)
            assert (conditions.rows is not None) == needed
            outputs.append(denoiser.run_blocks(inputs, modulation, conditions).detach())
    real = torch.cat([mask, mask])
    torch.testing.assert_close(outputs[1][real], outputs[0][real])


def test_batches_come_one_by_one_longest_first_and_unpadded(monkeypatch):
    model, widths, seen = make_v1(), [], []
    run_blocks = model.denoiser.run_blocks

    def watch(inputs, modulation, conditions):
        widths.append(inputs.shape[1])
        return run_blocks(inputs, modulation, conditions)

    monkeypatch.setattr(model.denoiser, "run_blocks", watch)
    batches = sample_batches(
        model,
        4,
        sampler="ddim",
        num_inference_steps=2,
        batch_size=2,
        lengths=torch.tensor([2, 5, 3, 4]),
        callback=lambda step, rows, x_start: seen.append((step, rows.tolist(), tuple(x_start.shape))),
    )
    rows, latents = next(batches)
    assert rows.tolist() == [1, 3] and latents.shape == (2, 6, 8)
    assert seen == [(0, [1, 3], (2, 5, 8)), (1, [1, 3], (2, 5, 8))]
    assert [rows.tolist() for rows, _ in batches] == [[2, 0]]
    assert widths == [5, 5, 3, 3]


def test_progress_counts_every_step_of_every_sample():
    counts = []
    sample_latents(make_model(), 5, num_inference_steps=4, batch_size=2, progress=counts.append)
    assert sum(counts) == 20


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ConfigError, match="trained with 50 timesteps"):
        sample_latents(make_v1(), 1, num_inference_steps=51)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"sampler": "euler"}, "Unknown sampler 'euler'"),
        ({"sampler": "unipc", "eta": 0.5}, "eta is 0.5, which the sampler unipc does not have; leave it out"),
        ({"sampler": "ddim", "eta": 1.5}, "eta is 1.5; it must be a finite number from 0 to 1"),
        ({"guidance_scale": 2.0}, "guidance_scale 2.0 needs"),
        ({"class_id": 1}, "trained without classes"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval is"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        sample_latents(make_model(), **{"num_samples": 2, "num_inference_steps": 2} | options)


@pytest.mark.parametrize("class_id", [4, -1, torch.tensor([0, 9])])
def test_class_out_of_range_is_refused(class_id):
    with pytest.raises(ConfigError, match="classes 0 to 2"):
        sample_latents(make_model(num_classes=3), 2, num_inference_steps=2, class_id=class_id)


def test_wrong_number_of_class_ids_is_refused():
    with pytest.raises(ConfigError, match="give one id or 2"):
        sample_latents(make_model(num_classes=3), 2, num_inference_steps=2, class_id=torch.tensor([0, 1, 2]))
