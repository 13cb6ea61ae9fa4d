"""A denoiser distilled into one of few steps."""

import json

import pytest
import torch

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import ddim, guided_denoiser, sample
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.training.distillation import DistillationStage, distinct_shares, student_of
from tests.conftest import make_model
from tests.training.small_runs import command, refused

NO_CONDITIONS = {"mask": None, "class_id": None, "context": None, "context_mask": None}


def stage_of(teacher, num_steps, teacher_steps) -> DistillationStage:
    """Only as much of one as its target needs."""
    stage = object.__new__(DistillationStage)
    stage.teacher, stage.num_steps, stage.teacher_steps = teacher, num_steps, teacher_steps
    return stage


@pytest.mark.parametrize("objective", ["pred_v", "pred_x0"])
def test_the_target_leads_to_where_the_teacher_gets(objective):
    teacher = make_model(recipe={"objective": objective})
    z = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    grid, states = sampling_grid(teacher.diffusion.schedule, 6), []
    with torch.no_grad():
        denoise = guided_denoiser(teacher, grid)
        final = sample(ddim, denoise, z, grid, callback=lambda step, z_next, pred: states.append(z_next))
    target = stage_of(teacher, 2, 3).target(z, torch.ones(3), NO_CONDITIONS)
    (alpha, sigma), (alpha_next, sigma_next) = (
        (level.sqrt(), (1 - level).sqrt()) for level in (grid.alpha_sq[0], grid.alpha_sq[3])
    )
    reached = alpha_next * target + sigma_next * (z - alpha * target) / sigma
    torch.testing.assert_close(reached, states[2], rtol=1e-3, atol=1e-3)
    whole = stage_of(teacher, 1, 6).target(z, torch.ones(3), NO_CONDITIONS)
    torch.testing.assert_close(whole, final, rtol=1e-2, atol=1e-2)


def test_rows_have_times_of_their_own():
    stage = stage_of(make_model(), 4, 2)
    z = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([1.0, 0.5, 0.25])
    together = stage.target(z, times, NO_CONDITIONS)
    alone = [stage.target(z[i : i + 1], times[i : i + 1], NO_CONDITIONS) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_a_student_is_a_copy_that_learns():
    teacher = make_model().requires_grad_(False)
    student = student_of(teacher, 4)
    assert all(p.requires_grad for p in student.parameters()) and student.recipe["distilled_steps"] == 4
    assert "distilled_steps" not in teacher.recipe
    assert distinct_shares(["a pub", "a pub", "A bar"]) == (2 / 3, 3 / 6)


def test_distilling_a_run(finished, tmp_path, monkeypatch, capsys):
    run_dir, student_dir = finished[0], tmp_path / "student"
    before = (run_dir / "denoiser" / "model.safetensors").read_bytes()
    asked = [f"train.distill_from={run_dir}", "train.distill_steps=2", "train.distill_teacher_steps=4"]
    command(student_dir, *asked)
    teacher, student = (LatentDiffusion.load(folder / "denoiser") for folder in (run_dir, student_dir))
    assert student.recipe == teacher.recipe | {"distilled_steps": 2}
    assert not torch.equal(student.denoiser.output_proj.weight, teacher.denoiser.output_proj.weight)
    assert (run_dir / "denoiser" / "model.safetensors").read_bytes() == before
    told = json.loads((student_dir / "samples" / "validation_step_6.json").read_text())
    assert (told["sampler"], told["sampling_steps"]) == ("ddim", 2)
    assert "is not empty; train.distill_from needs a run directory of its own" in refused(
        capsys, command, student_dir, *asked
    )
    nowhere = refused(capsys, command, tmp_path / "other", f"train.distill_from={tmp_path / 'nowhere'}")
    assert "is no finished run" in nowhere
    uneven = refused(capsys, command, tmp_path / "other", asked[0], "train.distill_teacher_steps=6")
    assert "train.distill_teacher_steps=6 must be a multiple of train.distill_steps=4" in uneven

    def texts(self, model, num_steps):
        return ["a pub", "another bar", "the river", "some food"] if num_steps == 4 else ["a pub"] * 4

    monkeypatch.setattr(DistillationStage, "_texts", texts)
    alarm = refused(capsys, command, tmp_path / "collapsed", *asked)
    assert (
        "The student has collapsed: after step 3 25% of the texts" in alarm
        and "100% in the teacher's" in alarm
    )
