"""Independence of the locale: files are UTF-8, missing characters are replaced, closed pipes end quietly."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.text_display import CLOSED_PIPE, typed
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model

ROOT = Path(__file__).parents[2]
FOLDERS = ("ld4lg_fast", "kernels", "export", "scripts", "benchmarks")
LD4LG = str(Path(sys.executable).with_name("ld4lg"))
# A C locale as it is without Python's own corrections of it.
C_LOCALE = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
C_LOCALE.pop("PYTHONIOENCODING", None)
NAMES = ("Très bon", "悪い", "[run] 😀")
FAST = ["--num-samples", "3", "--num-inference-steps", "2", "--strategy", "greedy", "--best-of", "1"]


def test_every_text_file_is_opened_with_an_encoding():
    ruff = shutil.which("ruff", path=Path(sys.executable).parent)
    if ruff is None:
        pytest.skip("ruff is not installed")
    # Isolated, so that the project's own choice of rules does not matter.
    command = [
        ruff,
        "check",
        "--isolated",
        "--preview",
        "--select",
        "PLW1514",
        "--target-version",
        "py311",
        *FOLDERS,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout


def test_every_process_is_read_with_an_encoding():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    given = {word.arg for word in node.keywords}
                    as_text = given & {"text", "universal_newlines"} and given & {
                        "capture_output",
                        "stdout",
                        "input",
                    }
                    assert not as_text or "encoding" in given, f"{path.relative_to(ROOT)}:{node.lineno}"


@pytest.fixture
def run_dir(autoencoder, tmp_path):
    """A run with class names that are not ASCII."""
    folder = tmp_path / "a run [bold]"
    statistics = RunStatistics((0, 0, 5, 7, 1), NAMES, (6, 4, 3), "tëxts.txt", 2)
    TextDiffusionPipeline(autoencoder, make_model(num_classes=3), statistics).save_pretrained(folder)
    return folder


def run(*command: str, **options) -> subprocess.CompletedProcess:
    words = [os.fsencode(word) for word in command]
    return subprocess.run(words, capture_output=True, env=C_LOCALE, **options)


def test_a_c_locale_samples_the_same_texts_into_the_same_file(run_dir, tmp_path):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    wanted = pipe(3, num_inference_steps=2, decoding="greedy", class_name="Très bon", seed=0).texts
    file = tmp_path / os.fsdecode(b"r\xe9sum\xe9 \xc3\xa8.json")
    done = run(LD4LG, "sample", str(run_dir), *FAST, "--class-name", "Très bon", "--json", str(file))
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["texts"] == wanted and content["settings"]["class_name"] == "Très bon"
    assert os.fsencode(content["run"]) == os.fsencode(run_dir)
    done = run(LD4LG, "sample", str(run_dir), *FAST, "--class-name", "Très bon", "--json", "-")
    assert json.loads(done.stdout.decode("ascii"))["texts"] == wanted


def test_a_c_locale_reads_the_classes_that_a_message_names(run_dir):
    done = run(LD4LG, "sample", str(run_dir), *FAST, "--class-name", "gut")
    assert done.returncode == 2 and b"Traceback" not in done.stderr
    assert b"There is no class 'gut'; this model has the classes 0 Tr" in done.stderr


def test_hydra_commands_keep_names_of_every_kind(run_dir, tmp_path):
    file = tmp_path / os.fsdecode(b"t\xe9xte.json")
    words = [f"infer.output_dir='{run_dir}'", f"infer.output_file='{file}'", "generation.class_name='悪い'"]
    words += ["generation.num_samples=2", "generation.num_inference_steps=2", "generation.strategy=greedy"]
    done = run(sys.executable, str(ROOT / "scripts" / "infer.py"), *words)
    assert done.returncode == 0, done.stderr
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["classes"] == ["悪い"] * 2
    assert b"[??] " in done.stdout and b"Written to " in done.stdout


def test_a_run_directory_that_weights_cannot_be_written_to_is_refused_before_training():
    with pytest.raises(ConfigError, match="is not UTF-8 text, as weights need it; choose another directory"):
        RunDirectory(os.fsdecode(b"r\xe9sum\xe9")).is_empty()


@pytest.mark.parametrize(
    "command",
    [
        ("ld4lg", "--help"),
        ("ld4lg", "train", "--help"),
        ("ld4lg", "bench"),
        ("ld4lg", "sample", "RUN", *FAST),
        (
            "scripts/infer.py",
            "infer.output_dir='RUN'",
            "generation.num_samples=2",
            "generation.num_inference_steps=2",
        ),
        ("scripts/test.py", "--help"),
        ("-m", "ld4lg_fast.training", "--cfg", "job"),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_every_command_quietly(command, run_dir):
    program, *words = (word.replace("RUN", str(run_dir)) for word in command)
    start = [LD4LG] if program == "ld4lg" else [sys.executable, program]
    with subprocess.Popen(
        [*start, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=C_LOCALE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == CLOSED_PIPE


@pytest.mark.parametrize("command", [("--help",), ("doctor",)], ids=" ".join)
def test_help_and_reports_are_printed_in_every_encoding(command):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([LD4LG, *command], capture_output=True, env=environment)
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.decode("ascii")


@pytest.mark.parametrize("word", [b"Tr\xc3\xa8s bon", b"Tr\xe8s bon", "悪い".encode(), b"\xff", b"plain"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_typed_texts_are_utf8_whatever_the_locale_took_them_for(word, encoding, monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode(encoding, "surrogateescape"))
    argument = word.decode(encoding, "surrogateescape")
    try:
        assert typed(argument) == word.decode("utf-8")
    except UnicodeDecodeError:
        assert typed(argument) == argument
    if encoding == "ascii":  # which the locale has no bytes for, as a text of a config file
        assert typed("悪い") == "悪い"


def test_an_output_that_is_full_or_closed_ends_in_order():
    with open("/dev/full", "wb") as full:
        done = subprocess.run([LD4LG, "doctor"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2 and done.stderr.startswith(b"error: No space left on device")
    done = subprocess.run(["sh", "-c", f"'{LD4LG}' doctor >&-"], stderr=subprocess.PIPE)
    assert done.returncode == 0 and done.stderr == b""
