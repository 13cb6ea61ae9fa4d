"""The NumPy loops of the exported runtime against PyTorch and transformers (without ONNX graphs)."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BartForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.decoding import DecodingConfig, generate_ids
from ld4lg_fast.diffusion import samplers, schedules
from ld4lg_fast.diffusion.process import prediction
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.exporter import generation_settings, schedule_levels
from ld4lg_fast.export.runtime import RuntimeInputError, noise, sampling
from ld4lg_fast.export.runtime import schedules as own_schedules
from ld4lg_fast.export.runtime.decoding import DecodingRules
from ld4lg_fast.export.runtime.search import decode_tokens, top_k
from ld4lg_fast.kernels import ops
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import randomize
from tests.language_models import tiny_bart

NAMES = ("cosine", "simple_linear", "beta_linear", "sigmoid", "tan-9", "shifted_cosine-0.5")
COUNT, LENGTH = 8, 16
V1 = schedules.DiscreteSchedule("linear", 1000)


LEARNED = ((1 - np.linspace(0, 1, 65) ** 1.3) ** 1.6).tolist()


def stored(schedule) -> dict:
    """A schedule in the form of an exported folder's config."""
    return schedule_levels(schedule, LEARNED)


@given(
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**62),
    stream=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
@settings(max_examples=30, deadline=None)
def test_noise_is_that_of_the_pipeline(seed, first, stream, shape):
    ids = torch.arange(3) + first
    wanted = ops.philox_normal(seed, ids, stream, shape).numpy()
    np.testing.assert_allclose(
        noise.philox_normal(seed, ids.numpy(), stream, shape), wanted, rtol=2e-6, atol=2e-7
    )


def test_lengths_and_classes_are_sampled_as_in_the_pipeline():
    statistics = RunStatistics((5, 0, 3, 1, 0, 7, 2, 0), ("a", "b", "c"), (3, 0, 8))
    ids = torch.arange(400)
    lengths = noise.draw((0, *statistics.length_counts[1:]), 7, ids.numpy(), noise.LENGTH_STREAM)
    assert lengths.tolist() == statistics.draw_lengths(7, ids).tolist() and len(set(lengths)) == 4
    classes = noise.draw(statistics.class_counts, 7, ids.numpy(), noise.CLASS_STREAM)
    assert classes.tolist() == statistics.draw_classes(7, ids).tolist() and set(classes) == {0, 2}


@pytest.mark.parametrize("spacing", schedules.SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 7, 25, 250])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_levels_are_those_of_the_continuous_schedules(name, scale, steps, spacing):
    schedule = schedules.ContinuousSchedule(name, scale)
    wanted = schedules.sampling_grid(schedule, steps, spacing, LEARNED)
    got = own_schedules.sampling_grid(stored(schedule), steps, spacing)
    np.testing.assert_allclose(got.times, wanted.times.numpy(), rtol=2.4e-7, atol=1.2e-7)
    # Two units in the last place of the bare curve, seen through the logit and back through the sigmoid.
    curve = schedule.unshifted(wanted.times).double()
    slack = (2 * 1.2e-7 / (curve * (1 - curve)).clamp(min=1e-7)).numpy()
    alpha_sq = wanted.alpha_sq.double().numpy()
    assert (np.abs(got.log_snr - wanted.log_snr.numpy()) <= 4e-6 + slack).all()
    assert (np.abs(got.alpha_sq - alpha_sq) <= 3e-7 + slack * alpha_sq * (1 - alpha_sq)).all()
    assert (got.network_time == got.alpha_sq[:-1]).all() and got.num_steps == steps


@pytest.mark.parametrize("spacing", ["log_snr", "learned"])
def test_levels_of_other_spacings_are_those_of_the_discrete_schedules(spacing):
    for steps in (1, 2, 8, 25, 150):
        wanted = schedules.sampling_grid(V1, steps, spacing, LEARNED)
        got = own_schedules.sampling_grid(stored(V1), steps, spacing)
        assert got.network_time.tolist() == wanted.network_time.tolist(), steps
        np.testing.assert_allclose(got.times, wanted.times.numpy(), rtol=1e-6)
    sentence = f"1000 steps do not fit the spacing '{spacing}'"
    with pytest.raises(ConfigError, match=sentence):
        schedules.sampling_grid(V1, 1000, spacing, LEARNED)
    with pytest.raises(RuntimeInputError, match=sentence):
        own_schedules.sampling_grid(stored(V1), 1000, spacing)


def test_spacings_that_cannot_be_are_refused():
    with pytest.raises(RuntimeInputError, match="no learned times; export it after ld4lg learn-timesteps"):
        own_schedules.sampling_grid(schedule_levels(V1, None), 8, "learned")
    with pytest.raises(RuntimeInputError, match="Unknown spacing 'even'"):
        own_schedules.sampling_grid(stored(V1), 8, "even")


@given(rows=st.integers(1, 3), size=st.integers(8, 9000), k=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_top_k_is_that_of_a_full_sort(rows, size, k, seed):
    scores = np.random.default_rng(seed).standard_normal((rows, size)).astype(np.float32)
    values, places = top_k(scores, k)
    np.testing.assert_array_equal(places, np.argsort(-scores, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(values, np.take_along_axis(scores, places, axis=1))


def test_levels_are_those_of_the_discrete_schedules_at_every_number_of_steps():
    for steps in (*range(1, 1001, 17), 1000):
        wanted, got = schedules.sampling_grid(V1, steps), own_schedules.sampling_grid(stored(V1), steps)
        assert got.network_time.tolist() == wanted.network_time.tolist(), steps
        np.testing.assert_array_equal(got.alpha_sq, wanted.alpha_sq.numpy())


def some_network(z_t: torch.Tensor, time: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    """A nonlinear function of all inputs of a network."""
    z_t = z_t + 0.3 * torch.sin(z_t * 2 + time)
    return z_t if previous is None else z_t - 0.2 * torch.tanh(previous)


WAYS = [*((name, {}) for name in samplers.SAMPLERS), ("ddim", {"eta": 0.5}), ("ddim", {"eta": 1.0})]


@pytest.mark.parametrize("objective", ["pred_v", "pred_x0", "pred_noise"])
@pytest.mark.parametrize("schedule", [schedules.ContinuousSchedule("cosine"), V1], ids=["v2", "v1"])
@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize(("name", "options"), WAYS)
def test_samplers_walk_the_same_path(name, options, schedule, objective, project):
    steps, generator = 9, torch.Generator().manual_seed(0)
    start, *fresh = torch.randn(steps + 1, 2, 3, 4, generator=generator)
    grid, own_grid = (
        schedules.sampling_grid(schedule, steps),
        own_schedules.sampling_grid(stored(schedule), steps),
    )
    time_scale = 1e-3 if schedule is V1 else 1.0

    def denoise(z_t, step, previous):
        output = some_network(z_t, grid.network_time[step] * time_scale, previous)
        return prediction(output, z_t, grid.alpha_sq[step], objective, project)

    def network(z_t, step, previous):
        previous = None if previous is None else torch.from_numpy(previous)
        time = torch.tensor(own_grid.network_time[step]) * time_scale
        return some_network(torch.from_numpy(z_t), time, previous).numpy()

    walk = samplers.get_sampler(name)
    wanted = walk(denoise, start, grid, noise=lambda step: fresh[step], **options).numpy()
    table = sampling.step_table(name, own_grid, objective, **options)
    got = sampling.sample(table, network, start.numpy(), lambda step: fresh[step].numpy(), project)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("objective", ["pred_v", "pred_x0", "pred_noise", "pred_flow"])
@pytest.mark.parametrize(("name", "options"), WAYS)
def test_coefficients_are_those_of_the_engine(name, options, objective):
    """Equal up to float32 rounding, so that latents differ only by rounding in the network."""
    for schedule in (schedules.ContinuousSchedule("cosine"), schedules.ContinuousSchedule("tan-2"), V1):
        for steps in (4, 25):
            grid = schedules.sampling_grid(schedule, steps)
            update = samplers.get_update(name)
            wanted = samplers.step_coefficients(update, grid, objective, [1.0] * steps, **options).numpy()
            levels = (getattr(grid, level).numpy() for level in vars(grid))
            got = sampling.step_table(name, own_schedules.SamplingGrid(*levels), objective, **options)
            # The engine's table has a column for the guided output, too.
            np.testing.assert_allclose(got, np.delete(wanted, 2, axis=1), rtol=3e-7, atol=1e-9)


def test_every_sampler_is_there():
    assert list(sampling.SAMPLERS) == list(samplers.SAMPLERS)


class TorchDecoder:
    """A language model without a cache, with the interface of the decoding loops; it needs `grow` every few tokens."""

    def __init__(self, lm: BartForConditionalGeneration, states: torch.Tensor, beams: int) -> None:
        self.lm, self.states = lm, states
        self.tokens, self.room = torch.zeros(len(states), beams, 0, dtype=torch.long), 0

    def is_full(self) -> bool:
        return self.tokens.shape[2] == self.room

    def grow(self, sentences: np.ndarray) -> None:
        self.states, self.tokens, self.room = self.states[sentences], self.tokens[sentences], self.room + 5

    @torch.no_grad()
    def step(self, tokens: np.ndarray) -> np.ndarray:
        self.tokens = torch.cat([self.tokens, torch.from_numpy(tokens)[..., None]], dim=2)
        outputs = BaseModelOutput(self.states.repeat_interleave(tokens.shape[1], dim=0))
        logits = self.lm(encoder_outputs=outputs, decoder_input_ids=self.tokens.flatten(0, 1)).logits[:, -1]
        return logits.unflatten(0, tokens.shape).numpy().copy()

    def choose(self, parents: np.ndarray) -> None:
        self.tokens = torch.from_numpy(np.take_along_axis(self.tokens.numpy(), parents[..., None], axis=1))


@pytest.fixture(scope="module")
def lm():
    lm = tiny_bart(40, max_position_embeddings=32, tie_word_embeddings=False)
    # Chosen so that sentences differ and end at different lengths.
    model = randomize(lm, std=0.4).eval()
    with torch.no_grad():
        model.final_logits_bias[0, 2] = 2.0
    return model


SETTINGS = [
    ({"strategy": "greedy", "repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_length": 0}, {}),
    ({"strategy": "greedy", "repetition_penalty": 0.7, "no_repeat_ngram_size": 1}, {}),
    ({"strategy": "beam"}, {}),
    ({"strategy": "beam"}, {"early_stopping": True}),
    ({"strategy": "beam", "num_beams": 2}, {"early_stopping": "never", "length_penalty": 2.0}),
    ({"strategy": "beam", "num_beams": 3, "no_repeat_ngram_size": 2}, {"length_penalty": 0.4}),
    ({"strategy": "beam"}, {"forced_bos_token_id": 0}),
    ({"strategy": "beam", "repetition_penalty": 1.0}, {"eos_token_id": [2, 7], "forced_eos_token_id": None}),
    ({"strategy": "nucleus"}, {}),
    ({"strategy": "nucleus", "top_p": 0.5, "temperature": 1.7}, {}),
    ({"strategy": "nucleus", "top_k": 7, "top_p": 0.9, "temperature": 2.0}, {}),
]


@pytest.mark.parametrize(("asked", "generation"), SETTINGS)
def test_decoding_gives_the_tokens_of_transformers(lm, asked, generation):
    states = 3 * torch.randn(COUNT, 5, 64, generator=torch.Generator().manual_seed(3))
    before = lm.generation_config.to_dict()
    try:
        lm.generation_config.update(**generation)
        wanted = generate_ids(lm, states, DecodingConfig(**asked), LENGTH, seed=5).tolist()
        own = generation_settings(lm)
    finally:
        lm.generation_config.update(**before)
    rules = DecodingRules(max_length=LENGTH, **own, **asked)
    beams = rules.num_beams if rules.strategy == "beam" else 1
    uniform = noise.uniforms(5, np.arange(COUNT), noise.TOKEN_STREAM, LENGTH)
    got = decode_tokens(TorchDecoder(lm, states, beams), COUNT, rules, uniform)[0].tolist()
    ends, pad = set(rules.eos_tokens), rules.pad_token

    def sentence(row: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(row[1:], 1) if token in ends), len(row))
        assert all(token in (pad, *ends) for token in row[end + 1 :])
        return row[: end + 1]

    assert [sentence(row) for row in got] == [sentence(row) for row in wanted]
    assert len({tuple(row) for row in wanted}) > 4, "sentences that are alike prove little"
