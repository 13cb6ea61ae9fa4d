import math

import pytest
import torch

from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule, sampling_grid
from ld4lg_fast.errors import ConfigError

NAMES = ["cosine", "simple_linear", "beta_linear", "sigmoid", "tan-9", "shifted_cosine-0.5"]


@pytest.mark.parametrize("name", NAMES)
def test_alpha_sq_falls_from_data_to_noise(name):
    alpha_sq = ContinuousSchedule(name).alpha_sq(torch.linspace(0, 1, 101, dtype=torch.float64))
    assert (alpha_sq.diff() <= 0).all()
    assert alpha_sq[0] > 0.999 and alpha_sq[-1] < 1e-3
    assert (alpha_sq > 0).all() and (alpha_sq < 1).all()


def test_tan_d_is_the_cosine_schedule_with_its_log_snr_moved():
    t = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    moved = ContinuousSchedule("cosine").log_snr(t) - 2 * math.log(9)
    torch.testing.assert_close(ContinuousSchedule("tan-9").log_snr(t), moved)
    torch.testing.assert_close(
        ContinuousSchedule("tan-1").alpha_sq(t), ContinuousSchedule("cosine").alpha_sq(t)
    )


def test_shifted_cosine_is_scale_under_a_name():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(
        ContinuousSchedule("shifted_cosine-0.5").alpha_sq(t),
        ContinuousSchedule("cosine", scale=0.5).alpha_sq(t),
    )


@pytest.mark.parametrize("name", ["cosin", "tan-", "tan-x", "tan--1", "tan-nan", "shifted_cosine-0"])
def test_unknown_schedule_is_refused_with_the_choices(name):
    with pytest.raises(ConfigError, match="choose one of cosine"):
        ContinuousSchedule(name)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scale_must_be_positive(scale):
    with pytest.raises(ConfigError, match="positive"):
        ContinuousSchedule("cosine", scale)


def test_unknown_beta_schedule_and_step_counts_are_refused():
    with pytest.raises(ConfigError, match="linear, cosine or sqrt"):
        DiscreteSchedule("quadratic")
    with pytest.raises(ConfigError, match="at least 1"):
        DiscreteSchedule("linear", 0)
    with pytest.raises(ConfigError, match="at least 1"):
        sampling_grid(ContinuousSchedule(), 0)


@pytest.mark.parametrize("schedule", [ContinuousSchedule(), DiscreteSchedule("cosine", 50)])
def test_grid_rises_to_data(schedule):
    grid = sampling_grid(schedule, 10)
    assert grid.num_steps == 10 and grid.alpha_sq.shape == (11,)
    assert (grid.alpha_sq.diff() > 0).all() and (grid.log_snr.diff() > 0).all()
    assert grid.alpha_sq[-1] > 0.999
