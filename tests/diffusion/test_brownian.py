"""The noise of a run's steps: increments of one path, independent of each other and alike at other step counts."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.diffusion.samplers import path_noise
from ld4lg_fast.diffusion.schedules import SPACINGS
from ld4lg_fast.export.runtime import brownian
from ld4lg_fast.export.runtime.brownian import MOST_STREAMS, step_noise
from ld4lg_fast.export.runtime.noise import START_STREAM, TOKEN_STREAM


def vectors(num_steps, spacing="time"):
    """The steps (S, streams) in the basis of random streams."""
    steps = step_noise(num_steps, spacing)
    matrix = np.zeros((num_steps, 1 + max(stream for step in steps for stream, _ in step)))
    for row, step in zip(matrix, steps, strict=True):
        for stream, weight in step:
            row[stream] = weight
    return matrix


def likeness(one, other):
    """How much of the variance of each step of ``one`` the steps of ``other`` explain."""
    width = max(one.shape[1], other.shape[1])
    one, other = (np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (one, other))
    return ((one @ other.T) ** 2).sum(1)


@settings(deadline=None)
@given(st.one_of(st.integers(1, 300), st.integers(300, 1500)), st.sampled_from(SPACINGS))
def test_steps_are_independent_standard_normals(num_steps, spacing):
    steps, matrix = step_noise(num_steps, spacing), vectors(num_steps, spacing)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(num_steps), atol=1e-12)
    for step in steps:
        streams = [stream for stream, _ in step]
        assert 1 <= len(streams) == len(set(streams)) <= MOST_STREAMS
        assert min(streams) > START_STREAM and max(streams) < TOKEN_STREAM
        assert all(weight for _, weight in step)


@pytest.mark.parametrize(
    ("few", "times", "least"), [(25, 2, 1), (25, 10, 1), (10, 5, 1), (50, 2, 0.75), (250, 4, 0.87)]
)
def test_a_step_is_made_of_the_steps_of_a_finer_run(few, times, least):
    """Up to the rounding of the ends of steps, which is finer in runs of more than 64 steps."""
    fine, coarse = vectors(few * times), vectors(few)
    assert likeness(coarse, fine).min() >= least - 1e-9
    summed = fine.reshape(few, times, -1).sum(1)[:, : coarse.shape[1]] / times**0.5
    assert (summed * coarse).sum(1).mean() > 0.75


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize(("few", "many"), [(20, 30), (25, 40), (24, 250), (49, 50), (100, 130)])
def test_steps_that_do_not_divide_each_other_are_alike(few, many, spacing):
    assert likeness(vectors(few, spacing), vectors(many, spacing)).mean() > 0.7


def test_a_step_needs_few_streams():
    means = {steps: np.mean([len(step) for step in step_noise(steps, "time")]) for steps in (25, 50, 250)}
    assert means[25] < 3 and means[50] < 2 and means[250] < 3.1


def test_noise_is_the_weighted_sum_and_streams_are_drawn_once():
    steps, drawn = step_noise(100, "time"), []

    def fresh(stream):
        drawn.append(stream)
        return np.random.default_rng(stream).standard_normal(1000).astype(np.float32)

    noise = brownian.path_noise(steps, fresh)
    got = np.stack([noise(step) for step in range(100)])
    assert len(drawn) == len(set(drawn)) and got.dtype == np.float32
    for step in (0, 37, 99):
        want = sum(weight * fresh(stream).astype(np.float64) for stream, weight in steps[step])
        np.testing.assert_allclose(got[step], want, atol=1e-5)
    correlations = np.corrcoef(got) - np.eye(100)
    assert abs(got.std() - 1) < 0.02 and abs(correlations).max() < 0.16


def test_the_paths_of_samples_and_seeds_differ():
    ids = torch.arange(2)
    draws = [path_noise(seed, ids, (500,), 25)(3) for seed in (1, 2)]
    rows = torch.cat(draws)
    for one, other in itertools.combinations(rows, 2):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.2
