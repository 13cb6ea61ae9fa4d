"""The console command: help, listings, JSON, exit codes and completion."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from typer.main import get_command
from typer.testing import CliRunner

from ld4lg_fast.cli import bench
from ld4lg_fast.cli import main as cli
from ld4lg_fast.cli.doctor import OPTIONAL, examine, report
from ld4lg_fast.cli.sampling_output import print_texts
from ld4lg_fast.evaluation.report import Row, print_report
from ld4lg_fast.export.runtime.command import _parser
from ld4lg_fast.terminal.console import progress_bar
from ld4lg_fast.terminal.hydra_arguments import hydra_value
from ld4lg_fast.terminal.hydra_help import options_of
from tests.doc_commands import PYPROJECT

COMMANDS = {
    *("train", "sample", "evaluate", "export", "run-onnx", "bench", "import-checkpoint", "demo", "doctor"),
    *("learn-timesteps", "guide", "serve", "verify"),
}


def ld4lg(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, arguments)
    return result.exit_code, result.output


def examples(text: str) -> list[str]:
    """The command lines in a help text, without what is said beside them."""
    return [re.split(r"\s{3}", line.strip())[0] for line in text.splitlines() if line.startswith("  ld4lg ")]


def test_all_commands_are_there_and_explain_themselves():
    code, text = ld4lg("--help")
    assert code == 0 and "Exit codes: 0 done, 1 verify found a difference, 2 bad input" in " ".join(
        text.split()
    )
    assert {line.split()[1] for line in examples(text)} <= COMMANDS
    for name in COMMANDS:
        code, text = ld4lg(name, "--help")
        assert code == 0 and text.lower().startswith("usage:") and "\x1b" not in text and "╭" not in text, (
            name
        )


@pytest.mark.parametrize("name", sorted(COMMANDS - {"train", "evaluate"}))
def test_help_teaches_with_examples_that_parse(name):
    command = get_command(cli.app).commands[name]
    own = [line for line in examples(ld4lg(name, "--help")[1]) if line.split()[1] == name]
    assert own
    for line in own:
        context = command.make_context(name, shlex.split(line)[2:])
        if name == "run-onnx":
            _parser(context.params["out_dir"], "ld4lg").parse_args(context.args)


@pytest.mark.parametrize(("command", "config"), [("train", "train"), ("evaluate", "test")])
def test_help_of_hydra_commands_tells_every_option_and_its_examples_compose(command, config):
    import hydra

    code, text = ld4lg(command, "--help")
    options = text[text.index("\nseed: 42" if command == "train" else "\ninfer:") :]
    assert code == 0
    with hydra.initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        composed = hydra.compose(config)
        shown = yaml.safe_load(options)
        if command == "train":
            assert shown == OmegaConf.to_container(composed, resolve=True)
        else:
            assert options.strip() == options_of(config) and set(shown) == set(composed)
        lines = [line for line in examples(text) if line.startswith(f"ld4lg {command} ")]
        assert len(lines) >= 3
        for line in lines:
            overrides = [word for word in shlex.split(line) if "=" in word]
            hydra.compose(config, [word for word in overrides if not word.startswith("hydra.")])


def test_the_help_of_training_shows_what_the_chosen_groups_give():
    shown = {}
    for words in ([], ["model=tiny"], ["model=base", "recipe=v2", "train.adapt_from=run"]):
        code, text = ld4lg("train", *words, "--help")
        assert code == 0
        shown[len(words)] = text[text.index("\nseed: 42") :]
    plain, tiny, base = (yaml.safe_load(text) for text in shown.values())
    assert plain["train"]["autoencoder"]["steps"] == 16000 and plain["decoding"]["strategy"] == "auto"
    assert tiny["model"]["denoiser"]["dim"] == 128 and tiny["train"]["diffusion"]["steps"] == 1500
    assert (base["recipe"]["version"], base["train"]["diffusion"]["steps"]) == ("v2", 250000)
    assert base["train"]["finetune_decoder_from"] == "run"
    # A comment is that of the last file that sets an option, or that of the first one.
    assert "validate_every: 500  # steps; also at the end\n" in shown[1]
    assert "decoder_noise: 1.0  # | 0.1: Shabalin" in shown[1] and "decoder_noise: 0.1\n" in shown[3]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("model=nano", "There is no model=nano; choose one of base"),
        ("train.foo=1", "There is no option train.foo"),
    ],
)
def test_the_help_of_training_refuses_in_one_sentence(word, said, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ld4lg", "train", word, "--help"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith(f"error: {said}") and error.count("\n") == 1


def test_evaluate_takes_a_folder_and_files_to_write(monkeypatch):
    from ld4lg_fast.evaluation import command

    seen = []
    monkeypatch.setattr(command, "main", lambda: seen.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["ld4lg"])
    assert ld4lg("evaluate", "a run", "--report", "page.html", "generation.num_samples=5")[0] == 0
    assert ld4lg("evaluate", "infer.output_dir=b", "--json", "b.json")[0] == 0
    assert seen == [
        ["infer.output_dir='a run'", "generation.num_samples=5", "evaluation.report='page.html'"],
        ["infer.output_dir=b", "infer.output_file='b.json'"],
    ]


@pytest.mark.parametrize("value", ["plain", "with space", "it's, [odd] = {x}", "näme"])
def test_values_reach_hydra_as_they_are(value):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"key={hydra_value(value)}"])
    assert override.value() == value


def test_doctor_says_what_works_and_why_not():
    found = examine()
    lines = list(report(found))
    assert found["kernels"]["reference"] is None and "kernels, reference: works" in lines
    assert found["precisions"]["cpu"]["fp32"] is None and "precision fp32 on cpu: works" in lines
    assert "needs a GPU" in found["precisions"]["cpu"]["fp8"]
    assert {"flash-attn", "flash-attn-3", "flash-attn-4"} == found["attention"]["cpu"].keys()
    assert any(line.startswith("attention, flash-attn-4 on cpu: ") for line in lines)
    assert not set(found["missing"]) & set(found["versions"])
    code, text = ld4lg("doctor", "--json")
    assert code == 0 and json.loads(text)["kernels"].keys() == found["kernels"].keys()


def test_doctor_knows_every_optional_package():
    extras = PYPROJECT["project"]["optional-dependencies"]
    brought = {
        (re.match(r"[\w-]+", package)[0], extra)
        for extra in extras.keys() - {"test"}
        for package in extras[extra]
    }
    assert OPTIONAL.items() <= brought and OPTIONAL.keys() == {package for package, _ in brought}


def test_doctor_names_the_remedy_for_what_is_missing():
    gone = examine() | {"missing": {"onnx": "pip install 'ld4lg-fast[onnx]'"}, "compile": "no compiler"}
    lines = list(report(gone))
    assert "onnx not installed: pip install 'ld4lg-fast[onnx]'" in lines
    assert "torch.compile: no compiler" in lines


def test_benchmarks_are_listed_and_run_in_a_checkout(tmp_path, monkeypatch):
    code, text = ld4lg("bench")
    listed = {line.split()[0] for line in text.splitlines()}
    assert code == 0 and {"ops", "sample", "decode", "train", "onnx"} <= listed
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "harness.py").touch()
    (folder / "exit_throughput.py").write_text(
        '"""Exits.\n\nMore."""\nimport sys\nif __name__ == "__main__":\n    sys.exit(int(sys.argv[1]))\n'
    )
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "ld4lg_fast" / "cli" / "bench.py"))
    assert ld4lg("bench") == (0, f"{'exit':<16} Exits.\n")
    assert ld4lg("bench", "exit", "3")[0] == 3


def test_without_a_checkout_the_benchmarks_say_where_they_are(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "__file__", str(tmp_path / "ld4lg_fast" / "cli" / "bench.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ld4lg", "bench"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2 and "run ld4lg bench in a checkout" in capsys.readouterr().err


def test_a_wrong_command_exits_with_2_and_an_interrupt_with_130(monkeypatch):
    code, text = ld4lg("smaple")
    assert code == 2 and "No such command" in text

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "run_suite", interrupted)
    monkeypatch.setattr(sys, "argv", ["ld4lg", "bench"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 130


def test_what_is_shown_is_drawn_on_a_terminal_and_plain_in_a_pipe(monkeypatch, capsys):
    row = Row("beam", {}, [{"num_texts": 2, "empty_texts": 0, "metrics": {"diversity": 0.5}, "skipped": {}}])

    def shown():
        print_texts(["A pub."], 1.0)
        print_report([row], "2 samples")
        with progress_bar() as bar:
            bar.add_task("denoising", total=1)
        return capsys.readouterr().out

    plain = shown()
    assert "A pub." in plain and "0.500" in plain and "denoising" not in plain and "\x1b" not in plain
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    drawn = shown()
    assert "A pub." in drawn and "0.500" in drawn and "denoising" in drawn and "\x1b" in drawn


def test_the_shell_completes_commands():
    environment = os.environ | {
        "_LD4LG_COMPLETE": "complete_bash",
        "COMP_WORDS": "ld4lg ev",
        "COMP_CWORD": "1",
    }
    program = Path(sys.executable).with_name("ld4lg")
    done = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["evaluate"]
