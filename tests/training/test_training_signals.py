"""Ctrl-C, SIGTERM, SIGHUP and kills: whenever they come, they are heeded, and the run goes on to the same bits."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from ld4lg_fast.terminal.console import console
from ld4lg_fast.training import (
    autoencoder_model,
    autoencoder_stage,
    diffusion_stage,
    interrupts,
    latent_cache,
    main,
    preparation,
    reconstruction,
    validation,
)
from ld4lg_fast.training.interrupts import SIGNALS, Interrupted, Interrupts
from tests.training.small_runs import SMALLEST, command, records

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
HOURS = 3600.0

# Where a signal comes, and when: in the call of that number.
AT_ONCE = {
    "corpus": (preparation, "load_from_config", 1),
    "tokenizer": (autoencoder_model, "train_bpe_tokenizer", 1),
    "tokens": (autoencoder_model, "CachedTokens", 1),
    "validation": (autoencoder_stage.AutoencoderStage, "_validation_sums", 1),
    "last validation": (autoencoder_stage.AutoencoderStage, "_validation_sums", 2),
    "reconstruction": (reconstruction, "_losses", 1),
    "latents": (latent_cache, "encode_texts", 1),
    "samples": (validation, "exact_decoding", 1),
    "last samples": (validation, "exact_decoding", 2),
}
AFTER_THE_STEP = {
    "first step": (autoencoder_stage.AutoencoderStage, "batch", 1),
    "step with a checkpoint": (autoencoder_stage.AutoencoderStage, "batch", 4),
    "step with a validation": (diffusion_stage.DiffusionStage, "batch", 3),
    "last step": (diffusion_stage.DiffusionStage, "batch", 6),
}


def lines(run_dir: Path) -> list[dict]:
    """The log without what a clock says."""
    return [
        {name: value for name, value in record.items() if name not in ("seconds", "samples_per_second")}
        for record in records(run_dir)
    ]


def assert_same(run_dir: Path, whole: Path) -> None:
    assert lines(run_dir) == lines(whole)
    for name in ("denoiser/model.safetensors", "autoencoder/perceiver.safetensors"):
        assert (run_dir / name).read_bytes() == (whole / name).read_bytes()
    for path in sorted((whole / "samples").iterdir()):
        assert path.read_text() == (run_dir / "samples" / path.name).read_text()
    assert not list(run_dir.rglob(".*")), "no lock and no half-written file is left"


def happening(patch: pytest.MonkeyPatch, place: object, name: str, call: int, event) -> None:
    """``event`` happens in the ``call``-th call of a function."""
    work, calls = getattr(place, name), []

    def noted(*arguments, **options):
        calls.append(None)
        if len(calls) == call:
            event()
        return work(*arguments, **options)

    patch.setattr(place, name, noted)


@pytest.mark.parametrize("phase", AT_ONCE)
def test_long_work_is_interrupted_at_once_and_made_up(phase, tmp_path, finished, monkeypatch):
    number = list(CODES)[len(phase) % 3]

    def event():
        os.kill(os.getpid(), number)
        time.sleep(HOURS)

    with monkeypatch.context() as patch, console.capture() as output:
        happening(patch, *AT_ONCE[phase], event)
        with pytest.raises(SystemExit) as stopped:
            command(tmp_path / "run")
    assert stopped.value.code == CODES[number]
    if phase == "corpus":
        assert not (tmp_path / "run").exists() and "Stopped before anything was changed." in output.get()
        return
    assert f"resume=true hydra.run.dir={tmp_path / 'run'}" in output.get()
    assert not (tmp_path / "run" / ".lock").exists()
    main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert_same(tmp_path / "run", finished[0])


@pytest.mark.parametrize("phase", AFTER_THE_STEP)
@pytest.mark.parametrize("log_every", [1, 4])
def test_a_step_is_finished_and_saved(phase, log_every, tmp_path, finished, monkeypatch):
    number, seldom = list(CODES)[len(phase) % 3], [f"train.log_every={log_every}"]
    stage, _, step = AFTER_THE_STEP[phase]
    with monkeypatch.context() as patch, console.capture() as output:
        happening(patch, *AFTER_THE_STEP[phase], lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as stopped:
            command(tmp_path / "run", *seldom)
    assert stopped.value.code == CODES[number]
    assert f"Stopped after step {step} of the {stage.name} stage, saved in" in output.get()
    assert (tmp_path / "run" / "checkpoints" / stage.name / f"step_{step}" / "state.json").exists()
    main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    if log_every == 1:
        assert_same(tmp_path / "run", finished[0])
    else:
        every = [line for line in lines(finished[0]) if "loss" not in line or line["step"] in (4, 6)]
        assert lines(tmp_path / "run") == every


class Killed(BaseException):
    """Nothing is tidied up after it but what the system does."""


@pytest.mark.parametrize(
    ("place", "name", "call"),
    [
        (autoencoder_stage.AutoencoderStage, "validate", 1),  # after the checkpoint of step 3
        (autoencoder_stage.AutoencoderStage, "validate", 2),  # after the last one
        (autoencoder_stage, "measure_reconstruction", 1),  # after the last validation
        (diffusion_stage.DiffusionStage, "validate", 1),
        (diffusion_stage.DiffusionStage, "batch", 4),  # after the validation of step 3
        (validation, "write_json", 1),
    ],
)
def test_a_kill_between_checkpoint_and_validation_loses_and_doubles_no_line(
    place, name, call, tmp_path, finished, monkeypatch
):
    def event():
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        happening(patch, place, name, call, event)
        command(tmp_path / "run", "train.checkpoint_every=3")
    main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert_same(tmp_path / "run", finished[0])


def test_a_run_that_was_interrupted_before_its_config_can_be_started_again(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        happening(patch, preparation, "load_from_config", 1, lambda: (_ for _ in ()).throw(Killed()))
        command(tmp_path / "run")
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / ".lock").write_text("{}")  # as after kill -9
    command(tmp_path / "run", "train.stage=autoencoder", "train.autoencoder.steps=1")
    assert (tmp_path / "run" / "autoencoder" / "autoencoder.json").exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_waits_for_a_check(number):
    before = signal.getsignal(number)
    with Interrupts() as interrupts_:
        interrupts_.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Interrupted) as stopped:
            interrupts_.check()
        assert stopped.value.exit_code == CODES[number]
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_stops_at_once_unless_it_comes_with_the_first(number, monkeypatch):
    with Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), number)  # as service managers and closing terminals do
    monkeypatch.setattr(interrupts, "SAME_REQUEST", 0.0)
    with Interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        with pytest.raises(Interrupted) as stopped:
            os.kill(os.getpid(), number)
        assert stopped.value.exit_code == CODES[number]
    with Interrupts(), pytest.raises(Interrupted):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_under_a_launcher_only_the_first_signal_counts(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(interrupts, "SAME_REQUEST", 0.0)
    with Interrupts() as interrupts_:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts_.received == signal.SIGINT


def test_a_signal_that_is_ignored_stays_ignored():
    """As SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts_, interrupts_.immediately():
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts_.received is None
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_from_before_long_work_keeps_it_from_beginning():
    with Interrupts() as interrupts_:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted), interrupts_.immediately():
            raise AssertionError("it began")


def test_two_sessions_need_no_third(tmp_path, finished, monkeypatch):
    """A run that is stopped again and again."""
    for stage, step in (("autoencoder", 2), ("autoencoder", 1), ("diffusion", 2), ("diffusion", 3)):
        kind = {
            "autoencoder": autoencoder_stage.AutoencoderStage,
            "diffusion": diffusion_stage.DiffusionStage,
        }
        arguments = ["resume=true"] if (tmp_path / "run").exists() else SMALLEST
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            happening(patch, kind[stage], "batch", step, lambda: os.kill(os.getpid(), signal.SIGTERM))
            main([*arguments, f"hydra.run.dir={tmp_path / 'run'}"])
    main(["resume=true", f"hydra.run.dir={tmp_path / 'run'}"])
    assert_same(tmp_path / "run", finished[0])
    shutil.rmtree(tmp_path / "run")
