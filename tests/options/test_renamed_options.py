"""Old names of options: taken for one version, said on stderr, and read silently where a run has stored them."""

import json
import re
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from typer.testing import CliRunner

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints.run_config import read_run_config
from ld4lg_fast.cli.main import app
from ld4lg_fast.export.runtime import command as exported
from ld4lg_fast.export.runtime.renamed import (
    RENAMED,
    current_entries,
    current_words,
    given_twice,
    renamed_words,
)
from ld4lg_fast.options.groups import checked_groups
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training import main as train_main
from tests.conftest import make_model
from tests.training.small_runs import SMALLEST

OF_HYDRA = {old: new for old, new in RENAMED.items() if "." in old}


@pytest.fixture
def run_dir(tmp_path, autoencoder) -> Path:
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(("old", "new"), [pair for pair in RENAMED.items() if pair[0] != "learn-times"])
def test_every_form_of_an_old_option_becomes_the_new_one(old, new):
    said = [f"{old} is now {new}; the old name goes away in 0.3."]
    forms = ["{}=5", "{}=a=b\nc"] + (["+{}=5", "++{}=5", "~{}"] if "." in old else ["{}"])
    for form in forms:
        words = ["first", form.format(old), "last"]
        assert current_words(words) == ["first", form.format(new), "last"]
        assert renamed_words(words * 2) == said
        assert given_twice(words) is None
        assert f"{old} and {new} are" in given_twice([*words, f"{new}=1"])


@pytest.mark.parametrize(
    "word", ["learn-times", "steps", "--stepsize", "out=--steps", "x.train.adapt_from=1"]
)
def test_other_words_stay(word):
    assert current_words([word]) == [word] and renamed_words([word]) == []


def test_a_command_takes_the_old_names_and_says_the_new_ones(run_dir, tmp_path):
    outputs = []
    for steps, best_of in (("--steps", "--tries"), ("--num-inference-steps", "--best-of")):
        file = tmp_path / "texts.json"
        arguments = [
            "sample",
            str(run_dir),
            "--num-samples",
            "2",
            steps,
            "3",
            f"{best_of}=2",
            "--json",
            str(file),
        ]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        outputs.append((json.loads(file.read_text()), result.stderr))
    (old, said), (new, nothing) = outputs
    assert said.splitlines() == renamed_words(["--steps", "--tries"]) and len(said.splitlines()) == 2
    assert nothing == ""
    assert old["texts"] == new["texts"] and old["settings"] == new["settings"]
    assert (new["settings"]["num_inference_steps"], new["settings"]["best_of"]) == (3, 2)


def test_the_old_name_of_a_command_runs_the_new_one(tmp_path):
    result = CliRunner().invoke(app, ["learn-times", "--help"])
    assert result.exit_code == 0 and "learn-timesteps outputs/e2e" in result.stdout
    assert result.stderr == "learn-times is now learn-timesteps; the old name goes away in 0.3.\n"
    assert "learn-times " not in CliRunner().invoke(app, ["--help"]).output


def test_a_run_directory_may_be_called_like_an_old_command(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["sample", "learn-times"])
    assert "learn-times does not exist" in str(result.exception) and result.stderr == ""


@pytest.mark.parametrize("config_name", ["train", "infer", "test"])
def test_hydras_options_have_their_old_names_too(config_name, monkeypatch, capsys):
    groups = ("train",) if config_name == "train" else ("generation",)
    names = {old: new for old, new in OF_HYDRA.items() if old.startswith(groups)}
    for old, new in names.items():
        monkeypatch.setattr(sys, "argv", ["command", f"{old}=7"])
        config = hydra_entry(lambda config: config, config_name)
        assert OmegaConf.select(config, new) == 7
        assert capsys.readouterr().err == f"{old} is now {new}; the old name goes away in 0.3.\n"
        monkeypatch.setattr(sys, "argv", ["command", f"{old}=7", f"{new}=7"])
        with pytest.raises(SystemExit) as stop:
            hydra_entry(lambda config: config, config_name)
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"error: {given_twice(sys.argv[1:])}\n"


def test_the_exported_command_takes_the_old_name(monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr(exported, "_sample", lambda folder, options: seen.append(options.num_inference_steps))
    exported.main(tmp_path, ["--steps", "3"])
    assert seen == [3]
    assert capsys.readouterr().err == "--steps is now --num-inference-steps; the old name goes away in 0.3.\n"
    with pytest.raises(SystemExit) as stop:
        exported.main(tmp_path, ["--steps", "3", "--num-inference-steps=3"])
    assert stop.value.code == 2 and "give --num-inference-steps alone" in capsys.readouterr().err
    assert seen == [3]


def with_old_names(path: Path) -> None:
    """Rewrites a run's config as version 0.1 stored it."""
    text = path.read_text()
    for old, new in OF_HYDRA.items():
        section, _, name = new.partition(".")
        if section == "train":
            text, count = re.subn(rf"^  {name}:", f"  {old.partition('.')[2]}:", text, flags=re.MULTILINE)
            assert count == 1, new
    path.write_text(text)


def test_a_stored_config_with_old_names_is_read_and_resumed(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    run_dir = tmp_path / "run"
    train_main([*SMALLEST, f"hydra.run.dir={run_dir}", "train.validation_num_inference_steps=4"])
    wanted = read_run_config(run_dir / "config.yaml")
    with_old_names(run_dir / "config.yaml")
    assert read_run_config(run_dir / "config.yaml") == wanted
    assert wanted.train.validation_num_inference_steps == 4
    capsys.readouterr()
    train_main(["resume=true", f"hydra.run.dir={run_dir}", "train.diffusion.steps=8"])
    assert capsys.readouterr().err == ""
    again = OmegaConf.load(run_dir / "config.yaml")
    assert again.train.diffusion.steps == 8 and again.train.keys() == wanted.train.keys()
    given = ["train.adapt_from=run", "train.decoder.steps=2", "train.decoder.batch_size=16"]
    monkeypatch.chdir(tmp_path)
    train_main([*given, "hydra.run.dir=adapted"])
    assert capsys.readouterr().err.startswith("train.adapt_from is now train.finetune_decoder_from")
    assert read_run_config(tmp_path / "adapted" / "config.yaml").train.finetune_decoder_from == "run"


def test_settings_of_earlier_results_are_read_by_todays_names():
    stored = {"sampler": "ddim", "sampling_steps": 5, "strategies": ["beam"]}
    assert current_entries("generation", stored) == {
        "sampler": "ddim",
        "num_inference_steps": 5,
        "strategy": ["beam"],
    }
    both = {"sampling_steps": 5, "num_inference_steps": 6}
    assert current_entries("generation", both) == both


def test_one_strategy_or_several_are_the_same_option(monkeypatch):
    from ld4lg_fast.evaluation.options import GROUPS

    for given, wanted in (("beam", "beam"), ("[beam,nucleus]", ["beam", "nucleus"])):
        monkeypatch.setattr(sys, "argv", ["command", "infer.output_dir=run", f"generation.strategy={given}"])
        groups = hydra_entry(lambda config: checked_groups(config, GROUPS), "test")
        assert groups["generation"]["strategy"] == wanted
