"""Every option of the commands, read from the config files and from the command line's parser, with values that cannot
work: exit code 2, one sentence that names the option, nothing written."""

import sys
from importlib import resources
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli import infer as inference
from ld4lg_fast.cli import main as cli
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation import command
from ld4lg_fast.evaluation.options import GROUPS as TEST
from ld4lg_fast.export.runtime.option_checks import Text
from ld4lg_fast.options.groups import INFER, Name, OrNull, checked_groups
from ld4lg_fast.options.groups import Path as PathName
from tests.conftest import make_model

BAD = [
    "hot",
    True,
    [],
    [1.5],
    [None],
    {"a": 1},
    {},
    float("nan"),
    float("inf"),
    1e30,
    -1,
    0,
    2.5,
    2**70,
    -(2**70),
]
COMMANDS = {"infer": (INFER, inference.main), "test": (TEST, command.main)}


def config_of(name: str) -> dict:
    return yaml.safe_load(
        (resources.files("ld4lg_fast.configs") / f"{name}.yaml").read_text(encoding="utf-8")
    )


ENTRIES = [
    (name, group, key)
    for name, (rules, _) in COMMANDS.items()
    for group in rules
    for key in config_of(name)[group]
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_entry_of_a_config_file_has_a_rule_that_its_default_keeps(name):
    rules, config = COMMANDS[name][0], config_of(name)
    assert {group: set(config[group]) for group in rules} == {group: set(rules[group]) for group in rules}
    assert set(config) - {"defaults", "hydra"} == set(rules)
    config["infer"]["output_dir"] = "outputs/demo"
    assert checked_groups(config, rules) == {group: config[group] for group in rules}


@pytest.mark.parametrize(("name", "group", "key"), ENTRIES)
def test_values_that_cannot_work_are_refused_by_the_name_of_their_entry(name, group, key):
    rules = COMMANDS[name][0]
    rule = rules[group][key]
    nullable, rule = (
        isinstance(rule, OrNull),
        getattr(rule, "rule", rule) if isinstance(rule, OrNull) else rule,
    )
    for value in [*BAD, *([] if nullable else [None])]:
        config = config_of(name)
        config["infer"]["output_dir"] = "outputs/demo"
        config[group][key] = value
        if rule.allows(value):
            assert checked_groups(config, rules)[group][key] == value or value != value
            # What a text may say is checked by who reads it.
            assert not isinstance(value, str) or isinstance(
                getattr(rule, "rule", rule), Text | PathName | Name
            )
            continue
        with pytest.raises(ConfigError) as said:
            checked_groups(config, rules)
        assert key in str(said.value) and "\n" not in str(said.value) and len(str(said.value)) < 300


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, tokenizer):
    import torch

    from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
    from tests.conftest import PERCEIVER, randomize

    torch.manual_seed(0)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    autoencoder = randomize(LanguageAutoencoder.from_scratch(tokenizer, lm, PERCEIVER, max_len=32), std=0.2)
    folder = tmp_path_factory.mktemp("options") / "run"
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(folder)
    return folder


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def refused(capsys, monkeypatch, folder: Path, command, *arguments: str) -> str:
    """The sentence of a command that must exit with 2 and write nothing."""
    monkeypatch.chdir(folder.parent)
    before = tree(folder.parent)
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command()
    output = capsys.readouterr()
    assert stopped.value.code == 2, output.err
    assert tree(folder.parent) == before
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("generation.temperature=hot", "generation.temperature is 'hot'; it must be a finite number from"),
        ("generation.temperature=nan", "generation.temperature is nan; it must be a finite number"),
        ("generation.repetition_penalty=nan", "generation.repetition_penalty is nan; it must be a finite"),
        (
            "generation.length_penalty=nan",
            "generation.length_penalty is nan; it must be a finite number from -10",
        ),
        (
            "generation.num_beams=2.5",
            "generation.num_beams is 2.5; it must be a whole number from 1 to 256.",
        ),
        ("generation.top_k=2.5", "generation.top_k is 2.5; it must be a whole number from 0"),
        (
            "generation.num_inference_steps=2.5",
            "generation.num_inference_steps is 2.5; it must be a whole number",
        ),
        ("generation.batch_size=2.5", "generation.batch_size is 2.5; it must be a whole number"),
        ("generation.seed=1.5", "generation.seed is 1.5; it must be a whole number from 0 to 2**64-1."),
        ("generation.seed=-1", "generation.seed is -1; it must be a whole number from 0 to 2**64-1."),
        ("generation.num_samples=1000000000000", "generation.num_samples is 1000000000000; it must be"),
        ("generation.num_samples=2000000000", "generation.num_samples is 2000000000; so many samples need"),
        (
            "generation.num_decodes=0",
            "generation.num_decodes is 0; it must be a whole number from 1 to 256.",
        ),
        (
            "generation.num_decodes=2",
            "num_decodes is 2; more than 1 needs strategy=nucleus, as beam gives the same",
        ),
        ("generation.top_p=2", "generation.top_p is 2; it must be a finite number above 0 and at most 1."),
        ("generation.max_length=100", "max_length 100 exceeds the 32 tokens that this model handles."),
        ("generation.sampler=''", "Unknown sampler ''; choose one of ddim"),
        ("generation.quality=''", "Unknown quality ''; choose one of draft"),
        ("generation.strategy=''", "Unknown decoding strategy ''; choose one of greedy"),
        ("generation.precision=''", "Unknown precision ''; choose one of fp32"),
        ("generation.class_name=''", "class_name '' was given, but this model was trained without classes"),
        ("generation.choose_by=''", "Unknown similarity generation.choose_by=; choose one of score"),
        ("generation=5", "generation is 5; it must be a group of options, as in generation.NAME=VALUE."),
        ("~generation.seed", "generation.seed is missing"),
        ("infer.output_file=/", "infer.output_file=/ is a directory; name a file in it."),
        (
            "infer.output_file=/dev/null",
            "infer.output_file=/dev/null is not a regular file; name another one.",
        ),
        ("infer.output_file=/dev/null/x", "nothing can be written in /dev/null (Not a directory)"),
        ("infer.output_file=/proc/x", "nothing can be written in /proc"),
        ("infer.output_file=''", "infer.output_file is ''; it must be a path"),
        (
            "infer.output_dir=5",
            "infer.output_dir is 5; it must be a path (a number as one is written \"'5'\").",
        ),
        ("generation.seed=???", "generation.seed is needed; it must be a whole number from 0 to 2**64-1."),
        (
            "generation.top_p=???",
            "generation.top_p is needed; it must be a finite number above 0 and at most 1.",
        ),
        ("infer.dtype=???", "infer.dtype is needed; it must be one of fp32, bf16, fp16."),
        (
            "+generation.sead=1",
            "There is no option generation.sead (did you mean generation.seed?); generation has",
        ),
        ("+infer.foo=1", "There is no option infer.foo; infer has output_dir"),
        (
            "+genration.seed=1",
            "There is no option genration (did you mean generation?); the command has infer",
        ),
        ("infer.output_dir=???", "infer.output_dir is needed; give it, as in infer.output_dir=outputs/demo."),
        ("infer.device=meta", "The device 'meta' is not available here"),
        ("infer.device=''", "The device '' is not available here"),
        ("infer.device=99999999999999999999", "is not available here"),
    ],
)
def test_each_is_refused_in_one_sentence_before_anything_is_written(
    override, sentence, run_dir, capsys, monkeypatch
):
    arguments = [f"infer.output_dir={run_dir}", override]
    assert sentence in refused(capsys, monkeypatch, run_dir, inference.main, *arguments)


# What each command must be given.
NEEDED = {
    "sample": ["RUN"],
    "learn-timesteps": ["RUN"],
    "export": ["RUN", "NEW"],
    "import-checkpoint": ["RUN", "NEW"],
}
NEEDED |= {"demo": [], "evaluate": ["RUN"], "serve": ["RUN", "--port=0"]}
NEEDED["guide"] = ["RUN", "--label-column=size", "--data", "LABELLED"]
OPTIONS = [
    (name, parameter.name)
    for name, command in get_command(cli.app).commands.items()
    for parameter in command.params
    if parameter.param_type_name == "option" and not parameter.is_flag
]
WORDS = ["hot", "", "nan", "1e30", "-1", "2.5", str(2**70), "/proc/x"]
# Words that are good values.
GOOD = {
    ("demo", "output_dir"): [word for word in WORDS if word],
    ("sample", "json"): ["hot", "nan", "1e30", "-1", "2.5", str(2**70)],
    ("guide", "name"): ["hot", "nan"],
    ("serve", "max_seconds"): ["2.5"],
}


class HasBegunError(Exception):
    """Replaces the work of a command after its options have been accepted."""


@pytest.mark.parametrize(("command", "option"), OPTIONS)
def test_no_option_of_the_command_line_ends_in_a_traceback(
    command, option, run_dir, tmp_path, capsys, monkeypatch
):
    def work(*_, **__):
        raise HasBegunError

    monkeypatch.setattr("ld4lg_fast.training.main", work)
    monkeypatch.setattr("ld4lg_fast.engine.learned_timesteps.sample_latents", work)
    monkeypatch.setattr("ld4lg_fast.engine.engine.SamplingRun.__call__", work)
    monkeypatch.setattr("ld4lg_fast.export.runtime.serving.server.asyncio.run", work)
    monkeypatch.chdir(tmp_path)
    labelled = tmp_path / "labelled.csv"
    labelled.write_text("text,size\n" + "The inn is small.,small\nThe inn is large.,large\n" * 20)
    places = {"RUN": str(run_dir), "NEW": str(tmp_path / "new"), "LABELLED": str(labelled)}
    for word in WORDS:
        arguments = [
            command,
            *(places.get(word, word) for word in NEEDED[command]),
            f"--{option.replace('_', '-')}={word}",
        ]
        monkeypatch.setattr(sys, "argv", ["ld4lg", *arguments])
        before = tree(tmp_path) | tree(run_dir.parent)
        if word in GOOD.get((command, option), ()):
            with pytest.raises(HasBegunError):
                cli.main()
        else:
            with pytest.raises(SystemExit) as stopped:
                cli.main()
            error = capsys.readouterr().err
            assert stopped.value.code == 2 and error.lower().count("error") == 1, (word, error)
        assert tree(tmp_path) | tree(run_dir.parent) == before


@pytest.mark.parametrize(
    "command", ["sample", "learn-timesteps", "verify", "export", "import-checkpoint", "run-onnx", "evaluate"]
)
def test_an_empty_path_is_not_the_current_directory(command, run_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(run_dir)
    monkeypatch.setattr(
        sys, "argv", ["ld4lg", command, "", *([""] if "NEW" in NEEDED.get(command, ()) else [])]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and ("it is empty" in said or "infer.output_dir is ''" in said)
