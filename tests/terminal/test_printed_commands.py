"""Values reach Hydra unchanged, and printed commands can be pasted into a shell."""

import shlex
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from typer.main import get_command

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.cli import main as cli
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.terminal.hydra_arguments import hydra_value, override, shell_command
from ld4lg_fast.training.run_setup import next_command, resume_command
from tests.conftest import make_model

NAMES = [
    "plain",
    "with space",
    "two  spaces",
    "lr=0.1",
    "a,b",
    "it's",
    'say "hi"',
    "(1)",
    "${x}",
    "${oc.env:HOME}",
]
NAMES += [
    "[run]",
    "[bold]x[/bold]",
    "{a: b}",
    "#1",
    "back\\slash",
    "end\\",
    "é 中文 ру",
    "~home",
    "+x",
    "null",
    "5",
]
NAMES += [
    "true",
    "$HOME",
    "`ls`",
    "a&b;c|d",
    "*?",
    "-x",
    "--help",
    "%s",
    "a:b",
    "@",
    "\\${x}",
    "'",
    "\\'",
    "1e5",
]

parser = OverridesParser.create()
syntax = st.text(alphabet=st.sampled_from("\\'\"${}[]()=,:; ab#~+@%!&|<>*?é中\n\t"), max_size=12)
words = st.text(alphabet=st.sampled_from("truefalsnifNAN/._-e1"), max_size=7)
anything = st.text(alphabet=st.characters(exclude_categories=()), max_size=20)  # surrogates of file names too


def arrives(word: str) -> object:
    """The value in a config after an override."""
    (parsed,) = parser.parse_overrides([word])
    config = OmegaConf.create({"key": None})
    OmegaConf.update(config, parsed.key_or_group, parsed.value(), merge=True)
    return OmegaConf.to_container(config, resolve=True)["key"]


@settings(max_examples=1500, deadline=None)
@given(st.one_of(syntax, words, anything))
def test_every_text_arrives_unchanged(text):
    assert arrives(f"key={hydra_value(text)}") == text
    assert arrives(override("key", text)) == text


@settings(max_examples=500, deadline=None)
@given(st.one_of(syntax, anything))
def test_every_text_passes_through_a_shell(text):
    (word,) = shlex.split(shell_command(override("key", text)))
    assert arrives(word) == text


def test_what_needs_no_quotes_has_none():
    assert override("hydra.run.dir", Path("outputs/e2e-small_1.5")) == "hydra.run.dir=outputs/e2e-small_1.5"
    assert shell_command("ld4lg", "sample", Path("outputs/demo")) == "ld4lg sample outputs/demo"


def option(command: str, key: str) -> object:
    """The value that Hydra parses from an option of a printed command."""
    (word,) = (word for word in shlex.split(command) if word.startswith(f"{key}="))
    return arrives(f"key={word.partition('=')[2]}")


@pytest.mark.parametrize("name", ["${x} it's, [run]\\", "lr=0.1 中文", "null"])
def test_hydra_itself_reads_the_same_as_its_parser(name):
    (word,) = shlex.split(shell_command(override("hydra.run.dir", name)))
    with hydra.initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        config = hydra.compose("train", [word], return_hydra_config=True)
    assert config.hydra.run.dir == name


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_go_on_with_a_run_can_be_pasted(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ld4lg"])
    folder = tmp_path / name
    command = resume_command(RunDirectory(folder))
    assert option(command, "hydra.run.dir") == str(folder) and "resume=true" in shlex.split(command)
    folder.mkdir(parents=True)
    for is_begun in (False, True):
        if is_begun:
            (folder / "autoencoder").mkdir()
            (folder / "autoencoder" / "autoencoder.json").write_text("{}", encoding="utf-8")
        with pytest.raises(CheckpointError, match="train it with: ") as refused:
            TextDiffusionPipeline.from_pretrained(folder)
        command = str(refused.value).partition("train it with: ")[2]
        assert option(command, "hydra.run.dir") == str(folder)
        assert ("train.stage=diffusion" in shlex.split(command)) == is_begun


@pytest.mark.parametrize("program", ["ld4lg", "scripts/train.py"])
@pytest.mark.parametrize("name", NAMES)
def test_commands_after_a_training_can_be_pasted(name, program, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(RunDirectory, "has_denoiser", False)
    command = next_command(RunDirectory(name))
    assert option(command, "hydra.run.dir") == name and "train.stage=diffusion" in shlex.split(command)
    monkeypatch.setattr(RunDirectory, "has_denoiser", True)
    command = next_command(RunDirectory(name))
    if program == "ld4lg":
        assert run_dir_of_sample(command) == Path(name)
    else:
        assert option(command, "infer.output_dir") == name


@pytest.mark.parametrize(
    ("typed", "begins"),
    [
        ("/usr/bin/ld4lg", ("ld4lg train resume=true", "ld4lg train train.stage", "ld4lg sample ")),
        (
            "/repo/scripts/train.py",
            (
                "python /repo/scripts/train.py resume=true",
                "python /repo/scripts/train.py train.stage",
                "python /repo/scripts/infer.py infer.",
            ),
        ),
        (
            "/lib/ld4lg_fast/training/__main__.py",
            ("python -m ld4lg_fast.training resume=true", "ld4lg train train.stage", "ld4lg sample "),
        ),
    ],
)
def test_printed_commands_are_those_of_the_program_that_was_started(typed, begins, monkeypatch):
    monkeypatch.setattr(sys, "argv", [typed])
    run = RunDirectory("run")
    monkeypatch.setattr(RunDirectory, "has_denoiser", False)
    said = [resume_command(run), next_command(run)]
    monkeypatch.setattr(RunDirectory, "has_denoiser", True)
    said.append(next_command(run))
    assert all(command.startswith(begin) for command, begin in zip(said, begins, strict=True)), said


def run_dir_of_sample(command: str) -> Path:
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("ld4lg", "sample")
    return get_command(cli.app).commands["sample"].make_context("sample", arguments).params["run_dir"]


@pytest.mark.parametrize("name", ["lr=0.1", "a,b [run] ${x}", "it's 中文\\"])
def test_a_shell_hands_a_printed_command_on(name):
    command = shell_command(
        sys.executable, "-c", "import sys; print(ascii(sys.argv[1]))", override("key", name)
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, encoding="utf-8", check=True)
    word = eval(done.stdout, {}, {})  # noqa: S307  what `ascii` printed
    assert arrives(word) == name


@pytest.mark.parametrize("name", ["lr=0.1", "outputs/lr=0.1,wd=2", "x (1) [a]", "${x}", "-x"])
def test_a_run_directory_whose_name_is_syntax_is_evaluated(name, autoencoder, tmp_path, monkeypatch, capsys):
    from ld4lg_fast.evaluation import run

    monkeypatch.chdir(tmp_path)
    folder = Path(name) if not name.startswith("-") else Path(f"./{name}")
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(folder)
    asked = []

    class Evaluation:
        def __init__(self, config, processes):
            asked.append(config["infer"]["output_dir"])
            raise CheckpointError("enough")

    monkeypatch.setattr(run, "Evaluation", Evaluation)
    for words in ([f"./{name}" if name.startswith("-") else name], [f"./{name}", "evaluation.seeds=[1]"]):
        monkeypatch.setattr(sys, "argv", ["ld4lg", "evaluate", *words])
        with pytest.raises(SystemExit):
            cli.main()
    assert [Path(text) for text in asked] == [Path(name)] * 2
