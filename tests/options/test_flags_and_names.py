"""Flags that no command has, names of classes in another Unicode form, and the precision that training chooses."""

import sys

import pytest
import torch

from ld4lg_fast.cli import doctor
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime import command as exported
from ld4lg_fast.export.runtime.conditions import class_index
from ld4lg_fast.terminal.hydra_arguments import check_flags
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training import train_section


def test_a_class_is_found_in_any_unicode_form_and_case():
    composed, decomposed = "Café", "Cafe\u0301"
    for known in (composed, decomposed):
        for asked in (composed, decomposed, composed.upper(), decomposed.lower()):
            assert class_index(["World", known], asked) == 1


@pytest.mark.parametrize(
    ("config", "flag", "said"),
    [
        (
            "infer",
            "--num-samples=3",
            "There is no option --num-samples; did you mean generation.num_samples=VALUE?",
        ),
        ("test", "--num_candidate", "did you mean generation.num_candidates=VALUE?"),
        ("train", "--zzz", "There is no option --zzz; options are written NAME=VALUE"),
    ],
)
def test_a_flag_that_hydra_does_not_have_is_refused_in_one_sentence(config, flag, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", flag])
    with pytest.raises(SystemExit) as stop:
        hydra_entry(lambda config: config, config)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and said in error and error.startswith("error: ") and error.count("\n") == 1


def test_hydras_own_flags_pass():
    check_flags(
        ["--multirun", "--multi", "--cfg", "job", "--help", "-m", "seed=1", "--config-dir=x"], "train"
    )
    with pytest.raises(ConfigError, match="no option --jobs"):
        check_flags(["--jobs"], "train")


def test_an_unknown_flag_of_the_exported_command_names_the_nearest(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        exported.main(tmp_path, ["--num-sample-s=3"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert error.startswith("error: There is no option --num-sample-s (did you mean --num-samples?); ")


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16"), (False, "no")])
def test_doctor_says_what_training_takes_and_why(has, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(train_section, "cpu_has_bf16", lambda: has)
    found = doctor.examine()
    assert found["mixed_precision"]["auto"] == precision
    line = f"training, train.mixed_precision=auto: {precision}, as the CPU "
    assert any(said.startswith(line) and "AVX-512 BF16" in said for said in doctor.report(found))
