"""The training command as people start it: a process of its own, signals, several processes."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ld4lg_fast
from tests.training.small_runs import SMALL, losses

SCRIPT = Path(__file__).parents[2] / "scripts" / "train.py"
SMALLEST = [
    *SMALL,
    "dataset=demo",
    "dataset.num_examples=60",
    "train.autoencoder.steps=3",
    "train.diffusion.steps=3",
    "train.validation_texts=5",
    "train.validation_samples=3",
    "train.validation_num_inference_steps=2",
]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
GRACE = 120  # seconds that a busy machine may take for what takes a few


def train(cwd: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    command = [sys.executable, *launcher, str(SCRIPT), *arguments]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=3 * GRACE
    )


def test_a_run_goes_where_hydra_says_and_leaves_nothing_else(tmp_path):
    result = train(tmp_path, *SMALLEST)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/*")] == ["outputs/demo"]
    assert not list(tmp_path.rglob(".hydra")) and not list(tmp_path.rglob("*.log"))
    assert f"python {SCRIPT.with_name('infer.py')} infer.output_dir=outputs/demo" in result.stdout
    assert "validation loss" in result.stdout and "step 3 of 3" in result.stdout
    assert (tmp_path / "outputs" / "demo" / "denoiser" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("dataset=novels", "choose one of ag_news, custom, demo, e2e"),
        ("model=huge", "choose one of base, small, small-seq2seq, tiny"),
        (
            "train.speed=3",
            "There is no option train.speed; train has activation_checkpointing, attn_implementation, autoencoder, ",
        ),
        ("modle=tiny", "There is no option modle"),
        ("model.language_model.dim", "option=value"),
        ("dataset=[demo,e2e]", "exactly one"),
        ("train.stage=third", "all, autoencoder, diffusion"),
        ("train.autoencoder.steps=many", "must be a whole number"),
        ("seed=${no.such}", "no.such"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, argument, said):
    from ld4lg_fast.training import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main([argument])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1, error


def test_bad_input_in_a_process_of_its_own(tmp_path):
    result = train(tmp_path, "dataset=novels")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: There is no dataset=novels; choose one of")
    assert result.stderr.count("\n") == 1


def launch(config: str) -> tuple[str, ...]:
    """Starts two processes, which on a machine without a GPU talk by gloo."""
    path = Path(ld4lg_fast.__file__).parent / "configs" / "accelerate" / f"{config}.yaml"
    return ("-m", "accelerate.commands.launch", "--config_file", str(path), "--num_processes", "2")


def interrupted(run_dir: Path, number: int, stage: str, *launcher: str) -> tuple[int, str, list[str]]:
    """A run that gets a signal in ``stage``: its exit code, what it printed, and how it says to go on."""
    command = [sys.executable, *launcher, str(SCRIPT), *SMALLEST, f"train.{stage}.steps=1000000"]
    place = {"cwd": run_dir.parents[1], "env": ENVIRONMENT}
    with open(run_dir.parents[1] / "output.txt", "w+") as output:
        process = subprocess.Popen(command, **place, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + GRACE
            while not ((run_dir / "logs" / "train.jsonl").exists() and len(losses(run_dir, stage)) >= 5):
                assert process.poll() is None and time.monotonic() < deadline, Path(output.name).read_text()
                time.sleep(0.05)
            process.send_signal(number)
            code = process.wait(GRACE)
        finally:
            process.kill()
    printed = Path(output.name).read_text()
    return code, printed, shlex.split(printed.partition("Go on with:\n")[2].partition("\n")[0])


@pytest.mark.parametrize(
    ("number", "code", "stage"),
    [
        (signal.SIGINT, 130, "autoencoder"),
        (signal.SIGTERM, 143, "diffusion"),
        (signal.SIGHUP, 129, "autoencoder"),
    ],
)
def test_an_interrupted_run_saves_and_says_how_to_go_on(tmp_path, number, code, stage):
    run_dir = tmp_path / "outputs" / "demo"
    got, printed, command = interrupted(run_dir, number, stage)
    assert got == code and "Traceback" not in printed
    assert command[:2] == ["python", str(SCRIPT)] and "resume=true" in command

    done = max(losses(run_dir, stage))
    result = train(tmp_path, *command[2:], f"train.{stage}.steps={done + 2}")
    assert result.returncode == 0, result.stderr
    assert f"The {stage} stage goes on after step {done}." in result.stdout
    assert list(losses(run_dir, stage)) == list(range(1, done + 3))
    assert (run_dir / "denoiser" / "config.json").exists()


def test_a_signal_to_the_launcher_of_two_processes_saves(tmp_path):
    run_dir = tmp_path / "outputs" / "demo"
    _, printed, command = interrupted(run_dir, signal.SIGTERM, "autoencoder", *launch("fsdp2"))
    done = max(losses(run_dir, "autoencoder"))
    assert f"Stopped after step {done} of the autoencoder stage, saved in" in printed
    assert (run_dir / "checkpoints" / "autoencoder" / f"step_{done}" / "state.json").exists()
    assert command[:2] == ["accelerate", "launch"] and command[3].endswith("configs/accelerate/fsdp2.yaml")
    assert command[4:7] == ["--num_processes", "2", str(SCRIPT)] and "resume=true" in command


def test_a_signal_to_the_launcher_of_one_process_saves(tmp_path):
    """Which passes it on to nobody, and is gone at once."""
    run_dir = tmp_path / "outputs" / "demo"
    interrupted(run_dir, signal.SIGTERM, "autoencoder", "-m", "accelerate.commands.launch")
    deadline = time.monotonic() + GRACE
    while "Go on with:" not in (tmp_path / "output.txt").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    done = max(losses(run_dir, "autoencoder"))
    assert (run_dir / "checkpoints" / "autoencoder" / f"step_{done}" / "state.json").exists()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run ``one`` of a single process."""
    folder = tmp_path_factory.mktemp("alone")
    result = train(folder, *SMALLEST, "hydra.run.dir=one", "autoencoder.decoder_noise=0.3")
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("config", ["ddp", "fsdp2"])
def test_two_processes_train_as_one(tmp_path, alone, config):
    run_dir = tmp_path / "two"
    options = ("hydra.run.dir=two", "autoencoder.decoder_noise=0.3", "train.checkpoint_every=2")
    both = train(tmp_path, *SMALLEST, *options, launcher=launch(config))
    assert both.returncode == 0 and "Warning" not in both.stderr, both.stderr
    assert both.stdout.count("Finished in") == 1, "only the main process speaks"
    if config == "fsdp2":
        # One process goes on from the checkpoint that two of them wrote.
        shutil.rmtree(run_dir / "denoiser")
        shutil.rmtree(run_dir / "checkpoints" / "diffusion" / "step_3")
        resumed = train(tmp_path, "resume=true", "hydra.run.dir=two")
        assert "The diffusion stage goes on after step 2." in resumed.stdout, resumed.stderr
    for stage in ("autoencoder", "diffusion"):
        one, two = losses(alone / "one", stage), losses(run_dir, stage)
        assert one.keys() == two.keys() and len(one) == 3
        assert two == pytest.approx(one, abs=1e-5)
        validated = [losses(folder, stage, "validation_loss") for folder in (alone / "one", run_dir)]
        assert len(validated[0]) == 1 and validated[1] == pytest.approx(validated[0], abs=1e-5)
    figures = [
        json.loads((folder / "reconstruction.json").read_text()) for folder in (alone / "one", run_dir)
    ]
    assert figures[0]["num_texts"] == figures[1]["num_texts"] == 5
    originals = [[text for text, _ in figure["examples"]] for figure in figures]
    assert originals[0] == originals[1], "in the order of the texts"
    sample = json.loads((run_dir / "samples" / "validation_step_3.json").read_text())
    assert len(sample["texts"]) == 3


def test_accelerate_launch_with_its_defaults(tmp_path):
    result = train(
        tmp_path, *SMALLEST, "train.stage=autoencoder", launcher=("-m", "accelerate.commands.launch")
    )
    assert result.returncode == 0, result.stderr
    assert "train.stage=diffusion hydra.run.dir=outputs/demo" in result.stdout
