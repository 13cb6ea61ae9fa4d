"""Sweeps (``--multirun``): exit codes count all jobs, and no folders of Hydra's remain."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import DictConfig

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.hydra_arguments import flags_last
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training import main as train
from tests.conftest import make_model
from tests.training.small_runs import SMALLEST, losses
from tests.training.test_train_cli import ENVIRONMENT, GRACE
from tests.training.test_training_checks import tree

INFER = Path(__file__).parents[2] / "scripts" / "infer.py"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a task once for each given seed; returns its exit code and the new files of the folder."""
    monkeypatch.chdir(tmp_path)
    # The help of Hydra adds one that writes to the output of this test.
    monkeypatch.setattr(logging.root, "handlers", [])
    # It also closes the handlers that there are; absl's takes the file along that pytest captures with.
    monkeypatch.setattr(logging, "_handlerList", [])

    def run(task, *arguments: str) -> tuple[int, dict]:
        monkeypatch.setattr(sys, "argv", ["infer.py", "infer.output_dir=x", *arguments])
        before = tree(tmp_path)
        try:
            hydra_entry(task, "infer")
            code = 0
        except SystemExit as stop:
            code = stop.code
        return code, {name: content for name, content in tree(tmp_path).items() if name not in before}

    return run


@pytest.mark.parametrize(
    ("outcomes", "code", "run"),
    [
        ([None, None, None], 0, [0, 1, 2]),
        ([ConfigError("no"), None, None], 2, [0, 1, 2]),
        ([None, ConfigError("no"), None], 2, [0, 1, 2]),
        ([None, ConfigError("no"), ConfigError("nor that")], 2, [0, 1, 2]),
        ([3, None, ConfigError("no")], 3, [0, 1, 2]),
        ([None, KeyboardInterrupt(), None], 130, [0, 1]),
        ([None, 143, None], 143, [0, 1]),
        ([ConfigError("no"), 143, None], 2, [0, 1]),
    ],
)
def test_every_job_counts(sweep, capsys, outcomes, code, run):
    done = []

    def task(config: DictConfig):
        done.append(config.generation.seed)
        outcome = outcomes[config.generation.seed]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert sweep(task, "--multirun", "generation.seed=0,1,2") == (code, {}) and done == run
    errors = capsys.readouterr().err.splitlines()
    failed = [i for i in run if isinstance(outcomes[i], ConfigError)]
    wanted = "error: {} (job {}: infer.output_dir=x generation.seed={})"
    assert errors == [wanted.format(outcomes[i], i, i) for i in failed]


def test_an_error_that_nobody_foresaw_ends_a_sweep_with_its_traceback(sweep):
    def task(config: DictConfig):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sweep(task, "--multirun", "generation.seed=0,1")


def test_an_unknown_option_is_reported_before_the_first_job(sweep, capsys):
    done = []
    code, new = sweep(done.append, "--multirun", "generation.seed=0,1", "generation.sead=1")
    assert (code, new, done) == (2, {}, [])
    assert capsys.readouterr().err.startswith(
        "error: There is no option generation.sead (did you mean generation.seed?);"
    )


@pytest.mark.parametrize("way", [["--multirun"], ["-m"], ["hydra.mode=MULTIRUN"]])
def test_a_folder_for_the_sweep_gets_what_hydra_writes(sweep, way):
    assert sweep(lambda config: None, *way, "generation.seed=0,1") == (0, {})
    code, new = sweep(lambda config: None, *way, "generation.seed=0,1", "hydra.sweep.dir=mine")
    assert code == 0 and {"mine", "mine/multirun.yaml", "mine/0", "mine/1"} == new.keys()


@pytest.mark.parametrize("flag", ["--multirun", "--multi", "--mul", "-m", "--multirun --multirun"])
@pytest.mark.parametrize("place", range(3))
def test_a_flag_may_stand_anywhere_and_be_shortened(sweep, flag, place):
    seen = []
    options = ["generation.seed=1,2", "generation.batch_size=3"]
    arguments = [*options[:place], *flag.split(), *options[place:]]
    assert sweep(lambda config: seen.append(config.generation.seed), *arguments) == (0, {})
    assert seen == [1, 2]


@pytest.mark.parametrize("flag", ["--cfg job", "-c job", "--cf job", "--cfg=job", "-p _global_ -c job"])
@pytest.mark.parametrize("place", range(3))
def test_a_flag_keeps_its_value(sweep, flag, place, capsys):
    done, options = [], ["generation.seed=1", "generation.batch_size=3"]
    assert sweep(done.append, *options[:place], *flag.split(), *options[place:]) == (0, {}) and not done
    assert "seed: 1\n" in capsys.readouterr().out
    assert flags_last(["a=1", *flag.split(), "b=2"]) == ["a=1", "b=2", *flag.split()]
    assert flags_last(["--inf", "searchpath", "a=1", "-i", "b=2"]) == [
        "a=1",
        "b=2",
        "--inf",
        "searchpath",
        "-i",
    ]


@pytest.mark.parametrize("arguments", ["--hydra-help", "generation.seed=1 --hydra-help", "--hydra x=1"])
def test_the_help_of_hydra_is_printed_beside_any_option(sweep, arguments, capsys):
    assert sweep(lambda config: None, *arguments.split()) == (0, {})
    assert "== Flags ==" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-m generation.seed=glob(zzz*)", "The sweep has no job"),
        ("-m hydra.sweeper.max_batch_size=0", "hydra.sweeper.max_batch_size is 0; it must be a whole number"),
        ("-m hydra.sweeper.max_batch_size=-1", "hydra.sweeper.max_batch_size is -1; it must be a whole"),
        ("hydra.sweeper.max_batch_size=x", "hydra.sweeper.max_batch_size is 'x'; it must be a whole number"),
        ("hydra.run.dir=", "hydra.run.dir is empty; give a path, as in hydra.run.dir=outputs/mine"),
        ("hydra.run.dir=''", "hydra.run.dir is empty"),
        ("hydra.run.dir=null", "hydra.run.dir is empty"),
        ("-m hydra.sweep.dir=", "hydra.sweep.dir is empty"),
        ("-m hydra.sweep.subdir=''", "hydra.sweep.subdir is empty"),
        ("hydra.run=[1]", "hydra.run is a group of options; give those, as in hydra.run.dir=VALUE"),
        (
            "generation=[1]",
            "generation is a group of options; give those, as in generation.num_samples=VALUE",
        ),
        ("hydra.job.chdir=hello", "hydra.job.chdir=hello does not fit (Value 'hello' is not a valid bool"),
        ("+generatoin.seed=1", "no option generatoin (did you mean generation?); the command has infer, gen"),
        ("+foo=1", "There is no option foo; the command has infer, generation."),
        ("++foo.bar=1", "There is no option foo; the command has"),
        ("+dataset.limit=1", "There is no option dataset; the command has"),
    ],
)
def test_what_hydra_would_pass_over_is_refused_in_one_sentence(sweep, arguments, said, capsys):
    done = []
    assert sweep(done.append, *arguments.split()) == (2, {}) and not done
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_folder_that_hydra_makes_for_one_job_stays_only_where_something_is_in_it(sweep):
    def task(config: DictConfig):
        (Path("given/run") / "x").write_text("")

    assert sweep(lambda config: None, "hydra.run.dir=given/run") == (0, {})
    assert sweep(task, "hydra.run.dir=given/run")[1].keys() == {"given", "given/run", "given/run/x"}
    Path("empty").mkdir()
    sweep(lambda config: None, "hydra.run.dir=empty")
    assert Path("empty").is_dir(), "it was there before"


def infer(cwd: Path, *arguments: str) -> subprocess.Popen:
    options = ["generation.num_samples=2", "generation.quality=draft", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(INFER), *options], cwd=cwd, env=ENVIRONMENT, **pipes)


def test_sampling_from_runs_of_which_one_is_missing(tmp_path, autoencoder):
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "run")
    before = tree(tmp_path).keys()
    process = infer(tmp_path, "--multirun", "infer.output_dir=missing,run")
    out, err = process.communicate(timeout=GRACE)
    assert process.returncode == 2
    assert err.startswith("error: The run directory missing does not exist") and err.count("\n") == 1
    assert "(job 0: " in err and "2 texts in" in out
    (samples,) = {path for path in tree(tmp_path).keys() - before if path.endswith(".json")}
    assert samples.startswith("run/samples/")
    assert not list(tmp_path.rglob("multirun*"))


def test_a_signal_ends_a_sweep_of_trainings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    places = ["hydra.run.dir=runs/${seed}", "--multirun", "train.stage=autoencoder"]
    train([*SMALLEST, *places, "seed=1,2", "train.mixed_precision=no,bf16", "train.autoencoder.steps=1"])
    assert [path.name for path in sorted(Path("runs").iterdir())] == ["1", "1.1", "2", "2.1"]
    begun = []

    def stopped(self, step, part, work=None):
        begun.append(step)
        os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, part)

    from ld4lg_fast.training.autoencoder_stage import AutoencoderStage

    batch = AutoencoderStage.batch
    monkeypatch.setattr(AutoencoderStage, "batch", stopped)
    with pytest.raises(SystemExit) as stop:
        train([*SMALLEST, *places, "seed=3,4"])
    assert stop.value.code == 143 and begun == [0]
    assert losses(tmp_path / "runs" / "3", "autoencoder").keys() == {1} and not Path("runs/4").exists()


def test_a_sweep_of_trainings_goes_into_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    options = ["--multirun", "seed=1,2", "hydra.sweep.dir=runs", "hydra.sweep.subdir=seed${seed}"]
    train([*SMALLEST, *options, "train.stage=autoencoder", "train.autoencoder.steps=1"])
    for seed in (1, 2):
        assert (tmp_path / "runs" / f"seed{seed}" / "autoencoder" / "autoencoder.json").exists()
    assert not Path("outputs").exists()
