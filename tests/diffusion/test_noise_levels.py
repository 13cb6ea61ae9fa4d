"""Levels of a sampler's steps ascend strictly, or are refused in a sentence; only finite latents are decoded."""

import itertools
import math

import numpy as np
import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.adaptive_schedule import TimeWarp
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import OBJECTIVES, prediction
from ld4lg_fast.diffusion.samplers import SAMPLERS, get_sampler, get_update, step_coefficients
from ld4lg_fast.diffusion.schedules import (
    SPACINGS,
    ContinuousSchedule,
    DiscreteSchedule,
    SamplingGrid,
    sampling_grid,
)
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.exporter import schedule_levels
from ld4lg_fast.export.runtime import RuntimeInputError, levels, sampling
from ld4lg_fast.export.runtime import schedules as own_schedules
from ld4lg_fast.training.distillation import student_of
from tests.conftest import RECIPE, make_model, randomize

CONTINUOUS = {
    **{
        name: ContinuousSchedule(name)
        for name in ("cosine", "simple_linear", "beta_linear", "sigmoid", "straight", "shifted_cosine-0.5")
    },
    **{f"tan-{d}": ContinuousSchedule(f"tan-{d}") for d in ("0.001", "0.1", "2", "9", "100", "1000")},
    **{f"cosine*{scale:g}": ContinuousSchedule("cosine", scale) for scale in (0.001, 0.1, 10.0, 1000.0)},
    "straight*1000": ContinuousSchedule("straight", 1000.0),
}
DISCRETE = {
    **{f"v1 {name}": DiscreteSchedule(name) for name in ("linear", "cosine", "sqrt")},
    "v1 of 50": DiscreteSchedule("linear", 50),
}
SCHEDULES = CONTINUOUS | DISCRETE
STRENGTHS = (1e-6, 1e-3, 0.01, 0.05, 0.1, 0.3, 0.7, 0.999, 1.0)
STEPS = (1, 2, 3, 8, 25, 50, 100, 250, 500, 1000)


def curve(a: float, b: float) -> list[float]:
    """Learned times."""
    return ((1 - np.linspace(0, 1, 65) ** a) ** b).tolist()


def adaptive_times() -> list[float]:
    """Times of an adaptive schedule after training on errors of one steep edge."""
    warp = TimeWarp()
    warp.record(torch.stack([torch.linspace(0, 1, 64) ** 8, torch.ones(64)]))
    warp.fit()
    return warp.sampling_times()


SPACED = {
    "time": ("time", None),
    "log_snr": ("log_snr", None),
    "learned": ("learned", curve(1.3, 1.6)),
    "learned, steep": ("learned", curve(2.0, 0.75)),
    "adaptive": ("learned", adaptive_times()),
}


def grid_or_sentence(schedule, num_steps, spaced, strength) -> SamplingGrid | str:
    spacing, learned = SPACED[spaced]
    try:
        return sampling_grid(schedule, num_steps, spacing, learned, strength)
    except ConfigError as error:
        return str(error)


def rises(*levels) -> bool:
    return all(bool((level[1:] > level[:-1]).all()) for level in levels)


@pytest.mark.parametrize("spaced", SPACED)
@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_rise_or_a_sentence_says_what_to_choose(name, spaced):
    schedule = SCHEDULES[name]
    for strength, num_steps in itertools.product(STRENGTHS, STEPS):
        timesteps = getattr(schedule, "num_train_timesteps", math.inf)
        if num_steps > timesteps and strength == 1:
            continue  # refused by the engine, see below
        case = (name, spaced, strength, num_steps)
        found = grid_or_sentence(schedule, num_steps, spaced, strength)
        if isinstance(found, str):
            assert "not fit" in found and found.endswith("."), case
            assert "choose a strength of at least" in found or "ask for" in found, case
            # Continuous schedules refuse nothing but what lies in their clamped end.
            assert timesteps < math.inf or schedule.alpha_sq(torch.tensor(strength)) > 0.75, case
            continue
        assert found.num_steps == num_steps and rises(found.alpha_sq, found.log_snr), case
        assert found.alpha_sq[:-1].max() < 1 and found.alpha_sq.min() > 0, case
        if spaced != "log_snr":  # it starts where it was asked to start
            assert abs(found.times[0] - strength) < (0.51 / timesteps or 1e-6 * strength), case


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_sentence_says_what_works(name):
    """The remedy that a sentence names works: a strength, a number of steps, a spacing."""
    schedule = SCHEDULES[name]
    timesteps = getattr(schedule, "num_train_timesteps", 1000)
    for spaced, strength, num_steps in itertools.product(("time", "log_snr"), STRENGTHS, (1, 25, 50)):
        sentence = grid_or_sentence(schedule, num_steps, spaced, strength)
        if not isinstance(sentence, str) or num_steps > timesteps:
            continue
        words = sentence.removesuffix(".").replace(",", "").split()
        if "strength of at least" in sentence:
            assert not isinstance(grid_or_sentence(schedule, num_steps, "time", float(words[-1])), str)
        if "ask for at most" in sentence:
            most = int(words[words.index("most") + 1])
            assert not isinstance(grid_or_sentence(schedule, most, "time", strength), str)
        if "for the spacing time" in sentence:
            assert not isinstance(grid_or_sentence(schedule, num_steps, "time", strength), str)


def toy_denoiser(grid: SamplingGrid, objective: str):
    """A smooth function of all inputs of a network."""

    def denoise(z, step, x_self_cond):
        output = 0.5 * torch.tanh(z + grid.network_time[step] % 1)
        if x_self_cond is not None:
            output = output - 0.1 * torch.tanh(x_self_cond)
        return prediction(output, z, grid.alpha_sq[step], objective)

    return denoise


@pytest.mark.parametrize("spaced", SPACINGS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_coefficients_and_latents_are_finite(sampler, spaced):
    noise = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    options = {"eta": 1.0} if sampler == "ddim" else {}
    cases = itertools.product(SCHEDULES.values(), (1e-3, 0.01, 0.05, 0.3, 1.0), (2, 3, 12))
    for (schedule, strength, num_steps), objective in zip(cases, itertools.cycle(OBJECTIVES)):
        grid = grid_or_sentence(schedule, num_steps, spaced, strength)
        if isinstance(grid, str):
            continue
        case = (schedule, strength, num_steps, objective)
        table = step_coefficients(get_update(sampler), grid, objective, [1.0] * num_steps, **options)
        assert table.isfinite().all(), case
        # Towards the next level a sampler extrapolates; it does not explode.
        assert table[:, 3:].abs().max() < 30, case
        if num_steps == 3:
            z = grid.alpha_sq[0].sqrt().float() * 0.5 + (1 - grid.alpha_sq[0]).sqrt().float() * noise
            made = get_sampler(sampler)(toy_denoiser(grid, "pred_v"), z, grid, noise=lambda step: noise)
            assert made.isfinite().all() and made.abs().max() < 50, case


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_exported_runtime_has_the_same_levels_or_the_same_sentence(name, spacing):
    schedule, learned = SCHEDULES[name], curve(2.0, 0.75)
    stored = schedule_levels(schedule, learned)
    for num_steps in STEPS:
        try:
            wanted = sampling_grid(schedule, num_steps, spacing, learned)
        except ConfigError as error:
            with pytest.raises(RuntimeInputError) as refused:
                own_schedules.sampling_grid(stored, num_steps, spacing)
            assert str(refused.value) == str(error)
            continue
        if num_steps > getattr(schedule, "num_train_timesteps", math.inf):
            continue
        got = own_schedules.sampling_grid(stored, num_steps, spacing)
        # To the last bit: an interval of guidance may end at one of them.
        assert got.times.tolist() == wanted.times.tolist()
        assert rises(got.alpha_sq, got.log_snr)
        assert got.log_snr.dtype == wanted.log_snr.numpy().dtype, "both moved apart, or neither"
        if got.log_snr.dtype == np.float64:
            np.testing.assert_allclose(got.log_snr, wanted.log_snr.numpy(), rtol=1e-6, atol=1e-5)
            table = sampling.step_table("dpmpp_2m", got, "pred_v") if num_steps <= 100 else np.zeros(1)
            assert np.isfinite(table).all()


def test_grids_that_rise_already_are_left_alone():
    for schedule in CONTINUOUS.values():
        for num_steps, spacing in itertools.product((8, 25, 250), ("time", "log_snr")):
            grid = sampling_grid(schedule, num_steps, spacing)
            plain, log_snr = schedule.alpha_sq(grid.times), schedule.log_snr(grid.times)
            if rises(plain, log_snr):
                assert torch.equal(grid.alpha_sq, plain) and torch.equal(grid.log_snr, log_snr)


def test_levels_that_coincide_are_moved_as_little_as_it_takes():
    assert levels.spread([-2.0, -1.0, 0.0, 1.0, 2.0]) == [-2.0, -1.0, 0.0, 1.0, 2.0]
    assert levels.spread([0.0, 0.0, 0.0, 5.0, 10.0, 10.0, 10.0]) == pytest.approx(
        [0.0, 1 / 6, 2 / 6, 5.0, 10 - 2 / 6, 10 - 1 / 6, 10.0]
    )
    assert levels.spread([3.0, 3.0, 3.0]) == [3.0, 3.0, 3.0]
    assert levels.whole_steps([9, 9, 4, 4, 3, -1]) == [10, 9, 5, 4, 3, -1]


@pytest.mark.parametrize("mean_step", [1e-4, 2.1e-5, 1.9e-5, 1e-6, 1e-7])
def test_small_steps_of_unic_follow_their_series(mean_step):
    """Coefficients relative to the step do not depend on the step's size, where the plain formula cancels."""

    def shares(mean_step: float) -> torch.Tensor:
        log_snr = 2 * mean_step * torch.arange(6, dtype=torch.float64)
        grid = SamplingGrid(log_snr.sigmoid(), log_snr.sigmoid()[:-1], log_snr, log_snr)
        return step_coefficients(get_update("unipc"), grid, "pred_v", [1.0] * 5)[2:4, 4:] / mean_step

    torch.testing.assert_close(shares(mean_step), shares(1e-3), rtol=5e-3, atol=5e-3)


REFUSED_TIMES = {
    "equal": ([1.0, 0.5, 0.5, 0.0], r"do not fall: 0\.5 is followed by 0\.5 \(entry 3\)"),
    "rising": ([1.0, 0.2, 0.3, 0.0], r"do not fall: 0\.2 is followed by 0\.3"),
    "backwards": ([0.0, 1.0], "do not fall"),
    "out of range": ([2.0, 1.0, 0.0], "are not two or more numbers from 1 to 0"),
    "nan": ([1.0, math.nan, 0.0], "are not two or more numbers"),
    "one": ([1.0], "are not two or more numbers"),
    "texts": (["1", "0"], "are not two or more numbers"),
    "a text": ("1, 0", "are not two or more numbers"),
    "a number": (0.5, "are not two or more numbers"),
}


@pytest.mark.parametrize("kind", REFUSED_TIMES)
def test_learned_times_that_do_not_fall_are_refused(kind):
    times, said = REFUSED_TIMES[kind]
    with pytest.raises(ConfigError, match=said) as refused:
        sampling_grid(ContinuousSchedule(), 5, "learned", times)
    assert "learn-timesteps" in str(refused.value)
    with pytest.raises(RuntimeInputError) as own:
        own_schedules.sampling_grid(schedule_levels(ContinuousSchedule(), times), 5, "learned")
    assert str(own.value) == str(refused.value)


@pytest.mark.parametrize("name", ["tan-1e30", "tan-1e-30", "tan-1001", "shifted_cosine-0.0001"])
def test_numbers_of_schedules_are_bounded(name):
    with pytest.raises(ConfigError, match=r"with D and R from 0\.001 to 1000"):
        ContinuousSchedule(name)


@pytest.mark.parametrize(
    ("name", "scale"), [("cosine", 1e-6), ("cosine", 1e6), ("shifted_cosine-100", 100.0), ("tan-9", 1e9)]
)
def test_scales_of_schedules_are_bounded(name, scale):
    with pytest.raises(ConfigError, match=r"must be a positive number from 0\.001 to 1000"):
        ContinuousSchedule(name, scale)


def test_tables_whose_levels_coincide_are_refused():
    with pytest.raises(
        ConfigError, match="num_train_timesteps 80000 is too many for the beta schedule 'linear'"
    ):
        DiscreteSchedule("linear", 80_000)


def test_students_whose_levels_coincide_are_refused():
    teacher = make_model(recipe={"schedule": "tan-100"})
    assert student_of(teacher, 4).recipe["distilled_steps"] == 4
    with pytest.raises(ConfigError, match="train.distill_steps=50 is too many for the schedule tan-100"):
        student_of(teacher, 50)


def v1_model(timesteps: int = 40):
    recipe = {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": timesteps}
    sizes = {"dim": 64, "depth": 2, "dim_latent": 8, "max_len": 6, "dropout": 0.0}
    model = LatentDiffusion.create(RECIPE | recipe, sizes)
    randomize(model.denoiser)
    return model.eval()


def test_more_steps_than_timesteps_are_refused():
    with pytest.raises(ConfigError, match="41 sampling steps were asked for.*trained with 40 timesteps"):
        sample_latents(v1_model(), 1, num_inference_steps=41)


def test_recipe_v1_starts_at_the_given_strength():
    start = torch.zeros(1, 6, 8)
    assert sample_latents(v1_model(), 1, num_inference_steps=4, start=start, strength=0.1).isfinite().all()
    with pytest.raises(
        ConfigError, match=r"5 steps do not fit the spacing 'time' from strength 0\.1 on; ask for at most 4"
    ):
        sample_latents(v1_model(), 1, num_inference_steps=5, start=start, strength=0.1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_texts_are_varied_a_little_in_many_steps(autoencoder, sampler):
    """Where the last levels of cosine are clamped to one, samplers divided 0 by 0 and wrote empty texts."""
    pipe = TextDiffusionPipeline(autoencoder, make_model(), decoding=DecodingConfig("greedy"))
    options = {"sampler": sampler, "num_inference_steps": 200, "seed": 1}
    output = pipe.vary("The cat sat on the mat.", 2, strength=0.01, **options)
    assert output.latents.isfinite().all() and all(output.texts)


def broken(model, what):
    """A model of damaged statistics or weights."""
    with torch.no_grad():
        {
            "mean": lambda: model.latent_mean.fill_(math.nan),
            "scale": lambda: model.latent_scale.fill_(math.inf),
            "weights": lambda: next(model.denoiser.parameters()).fill_(math.nan),
        }[what]()
    return model


@pytest.mark.parametrize("what", ["mean", "scale", "weights"])
def test_latents_that_are_not_finite_are_not_decoded(autoencoder, what):
    pipe = TextDiffusionPipeline(autoencoder, broken(make_model(), what))
    with pytest.raises(
        ConfigError, match="The latents of 3 of 3 samples are not finite, so they are not decoded"
    ):
        pipe(3, num_inference_steps=2)


WAYS_TO_DECODE = {
    "decode": lambda pipe, latents: pipe.decode(latents),
    "generate": lambda pipe, latents: pipe.autoencoder.generate(latents, DecodingConfig("greedy")),
    "confidences": lambda pipe, latents: pipe.confidences(latents, ["a", "b"]),
}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("way", WAYS_TO_DECODE)
def test_every_way_to_texts_checks_latents(autoencoder, way, value):
    pipe = TextDiffusionPipeline(autoencoder, make_model())
    latents = torch.zeros(2, 6, 8)
    latents[1, 3, 5] = value
    with pytest.raises(ConfigError, match="The latents of 1 of 2 samples are not finite"):
        WAYS_TO_DECODE[way](pipe, latents)


def test_what_fills_a_gap_is_checked_too(autoencoder):
    pipe = TextDiffusionPipeline(autoencoder, broken(make_model(), "scale"))
    with pytest.raises(ConfigError, match="are not finite"):
        pipe.infill("The cat ___ on the mat.", 2, num_inference_steps=2)
