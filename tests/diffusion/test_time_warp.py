"""Adaptive training times (`TimeWarp`)."""

import shutil

import pytest
import torch

from ld4lg_fast.diffusion.adaptive_schedule import BINS, DECAY, EVERY, PLAIN_SHARE, TimeWarp
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.schedules import sampling_times
from ld4lg_fast.errors import ConfigError
from tests.conftest import make_model
from tests.engine.test_engine import make_v1
from tests.training.small_runs import cached, command, losses

ADAPTIVE = ["recipe=v3", "recipe.adaptive_schedule=true"]


def fitted(error) -> TimeWarp:
    warp, times = TimeWarp(), torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    warp.record(warp.sums(times, error(times)))
    warp.fit()
    return warp


def test_it_begins_as_the_identity():
    warp, t = TimeWarp(), torch.tensor([0.0, 0.1234, 0.5, 1.0])
    torch.testing.assert_close(warp(t), t)
    warp.fit()
    torch.testing.assert_close(warp(t), t, msg="nothing was recorded")


def test_the_error_rises_linearly_over_the_sampled_times():
    def error(time):  # all that there is to learn lies around 0.3
        return torch.sigmoid((time - 0.3) * 20)

    warp, even = fitted(error), torch.linspace(0.05, 0.95, 19)
    times = warp(even)
    assert (warp.knots.diff() > 0).all() and warp.knots[0] == 0 and warp.knots[-1] == 1
    risen = (1 - PLAIN_SHARE) * (error(times) - error(torch.zeros(1))) + PLAIN_SHARE * times
    torch.testing.assert_close(risen, even, rtol=0, atol=0.03)
    drawn = warp(torch.rand(5000, generator=torch.Generator().manual_seed(1)))
    assert ((drawn > 0.2) & (drawn < 0.4)).float().mean() > 0.6
    assert (drawn > 0.6).float().mean() > 0.01, "no time is given up"


def test_an_error_that_falls_in_places_gives_a_rising_map():
    warp = fitted(lambda time: (time * 9).sin() + 2 * time)
    assert warp.knots.isfinite().all() and (warp.knots.diff() > 0).all()


def test_what_is_old_counts_less():
    warp, times = TimeWarp(), torch.tensor([0.0, 0.999])
    warp.record(warp.sums(times, torch.tensor([1.0, 2.0])))
    warp.record(warp.sums(times[:1], torch.tensor([5.0])), share=0.5)
    assert warp.errors[0].item() == pytest.approx(1.0 * DECAY**0.5 + 5.0)
    assert warp.counts[-1].item() == pytest.approx(DECAY**0.5) and warp.counts[1:-1].sum() == 0


def test_the_map_is_kept_with_the_model_and_gives_sampling_times(tmp_path):
    model = make_model(recipe={"adaptive_schedule": True})
    model.time_warp.knots.copy_(torch.linspace(0, 1, BINS + 1) ** 2)
    model.save(tmp_path)
    loaded = LatentDiffusion.load(tmp_path)
    assert torch.equal(loaded.time_warp.knots, model.time_warp.knots)
    times = sampling_times(loaded.diffusion.schedule, 4, "learned", loaded.learned_times)
    torch.testing.assert_close(times, torch.tensor([1.0, 0.5625, 0.25, 0.0625, 0.0]))
    model.recipe["learned_times"] = [1.0, 0.0]
    assert model.learned_times == [1.0, 0.0], "what was learned from samples comes first"
    assert make_model().learned_times is None and "time_warp.knots" not in make_model().state_dict()


def test_recipe_v1_has_no_adaptive_schedule():
    model = make_v1()
    with pytest.raises(ConfigError, match="adaptive_schedule=true needs continuous times"):
        LatentDiffusion(model.denoiser, model.recipe | {"adaptive_schedule": True})


def test_training_fits_it_and_goes_on_to_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("ld4lg_fast.training.diffusion_stage.EVERY", 2)
    run_dir, plain = tmp_path / "run", tmp_path / "plain"
    command(run_dir, *ADAPTIVE)
    warp = LatentDiffusion.load(run_dir / "denoiser").time_warp
    assert EVERY == 100 and not torch.allclose(warp.knots, torch.linspace(0, 1, BINS + 1), atol=1e-3)
    assert 0 < warp.counts.sum() <= 6 * 16 and warp.errors[warp.counts > 0].min() > 0
    whole = losses(run_dir, "diffusion")
    # From the checkpoint before the last one.
    shutil.rmtree(run_dir / "checkpoints" / "diffusion" / "step_6")
    shutil.rmtree(run_dir / "denoiser")
    command(run_dir, "resume=true")
    assert losses(run_dir, "diffusion") == whole
    assert torch.equal(LatentDiffusion.load(run_dir / "denoiser").time_warp.knots, warp.knots)
    command(plain, "recipe=v3")
    assert torch.equal(cached(plain), cached(run_dir)) and losses(plain, "diffusion")[1] == whole[1]
    assert losses(plain, "diffusion") != whole, "once fitted, other times are drawn"
