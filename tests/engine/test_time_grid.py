"""Sampling times: spacings, presets and learned times."""

import json

import pytest
import torch
from typer.testing import CliRunner

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli import main as cli
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule, sampling_grid, sampling_times
from ld4lg_fast.engine import learned_timesteps
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.learned_timesteps import learn_timesteps
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.presets import QUALITIES, sampling_plan
from tests.conftest import make_model

SCHEDULES = [
    ContinuousSchedule(),
    ContinuousSchedule("tan-9"),
    DiscreteSchedule("linear"),
    DiscreteSchedule("sqrt"),
]
SOME_TIMES = [1.0, 0.7, 0.3, 0.0]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("spacing", ["time", "log_snr", "learned"])
@pytest.mark.parametrize("num_steps", [1, 2, 9, 40])
def test_every_spacing_rises_to_data(schedule, spacing, num_steps):
    grid = sampling_grid(schedule, num_steps, spacing, SOME_TIMES)
    assert grid.alpha_sq.shape == grid.times.shape == (num_steps + 1,)
    assert (
        (grid.times.diff() < 0).all()
        and (grid.alpha_sq.diff() >= 0).all()
        and (grid.log_snr.diff() >= 0).all()
    )
    assert grid.alpha_sq[-1] > 0.999 and grid.times[-1] == 0


@pytest.mark.parametrize(
    ("schedule", "slack"), [(ContinuousSchedule(), 1e-2), (DiscreteSchedule("linear"), 0.12)]
)
def test_equal_steps_of_log_snr(schedule, slack):
    """A discrete schedule has integer steps only, far apart in log-SNR near data."""
    log_snr = sampling_grid(schedule, 20, "log_snr").log_snr[:-1]
    torch.testing.assert_close(log_snr.diff(), log_snr.diff().mean().expand(19), rtol=slack, atol=0)
    times = sampling_times(schedule, 20, "log_snr")
    assert times[0] == pytest.approx(0.995, abs=1e-3) and times[-2] == pytest.approx(0.005, abs=1e-3)


def test_learned_times_are_passed_in_equal_shares():
    times = sampling_times(ContinuousSchedule(), 6, "learned", SOME_TIMES)
    torch.testing.assert_close(times, torch.tensor([1.0, 0.85, 0.7, 0.5, 0.3, 0.15, 0.0]))


def test_steps_of_a_discrete_schedule_stay_apart():
    schedule = DiscreteSchedule("linear", 10)
    steps = sampling_grid(schedule, 10, "learned", [1.0, 0.2, 0.1, 0.0]).network_time
    assert steps.tolist() == list(range(9, -1, -1))


def test_spacings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="Unknown spacing 'karras'; choose one of time, log_snr, learned"):
        sampling_times(ContinuousSchedule(), 5, "karras")
    with pytest.raises(ConfigError, match="no learned times; learn them with ld4lg learn-timesteps RUN_DIR"):
        sample_latents(make_model(), 1, num_inference_steps=2, spacing="learned")
    with pytest.raises(ConfigError, match="9 steps do not fit the spacing 'learned'"):
        sampling_grid(DiscreteSchedule("linear", 8), 9, "learned", SOME_TIMES)


def test_given_options_override_the_preset():
    assert sampling_plan("paper") == QUALITIES["paper"] and QUALITIES["paper"].num_steps == 250
    plan = sampling_plan("draft", sampler="ddim", spacing="log_snr")
    assert (plan.sampler, plan.num_steps, plan.spacing) == ("ddim", QUALITIES["draft"].num_steps, "log_snr")
    with pytest.raises(ConfigError, match="Unknown quality 'good'; choose one of draft, balanced, paper"):
        sampling_plan("good")


def test_learned_times_err_no_more_than_equal_ones(monkeypatch):
    monkeypatch.setattr(learned_timesteps, "MANY_STEPS", 40)
    monkeypatch.setattr(learned_timesteps, "SAMPLES", 8)
    model, done = make_model(), []
    found = learn_timesteps(model, progress=lambda *numbers: done.append(numbers))
    assert 0 < found["learned"] <= found["equal"]
    assert done[-1] == (40 + 8 * 25, 40 + 8 * 25)
    assert model.learned_times[0] == 1 and model.learned_times[-1] == 0
    exact, *few = (
        sample_latents(model, 8, sampler="unipc", num_inference_steps=steps, spacing=spacing)
        for steps, spacing in ((40, "time"), (8, "time"), (8, "learned"))
    )
    equal, learned = (((latents - exact) / model.divisor).square().mean().sqrt().item() for latents in few)
    assert (equal, learned) == pytest.approx((found["equal"], found["learned"]), rel=1e-3)


def test_the_command_keeps_what_it_learned(autoencoder, tmp_path, monkeypatch):
    monkeypatch.setattr(learned_timesteps, "MANY_STEPS", 20)
    monkeypatch.setattr(learned_timesteps, "SAMPLES", 4)
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "run")
    result = CliRunner().invoke(cli.app, ["learn-timesteps", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "run" / "denoiser" / "config.json").read_text())
    assert len(config["recipe"]["learned_times"]) == learned_timesteps.POINTS
    pipe = TextDiffusionPipeline.from_pretrained(tmp_path / "run")
    assert pipe.sample(2, num_inference_steps=3, spacing="learned").latents.isfinite().all()
