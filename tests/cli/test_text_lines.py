"""Texts as JSON lines: going on after an interruption at any byte, and what is refused."""

import json
import sys

import pytest
from typer.testing import CliRunner

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli import infer, sampled_texts, text_lines
from ld4lg_fast.cli.main import app
from ld4lg_fast.cli.text_lines import TextLines, write_lines
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.training.session import start_processes
from tests.conftest import make_model

SETTINGS = {"seed": 1, "decoding": {"strategy": "beam"}}
FEW = ["generation.num_inference_steps=2", "generation.strategy=greedy", "generation.max_length=8"]


class Sampler:
    """Rows by their ids alone; ``calls`` are the batches that were asked for."""

    def __init__(self, interrupted_at: int | None = None) -> None:
        self.calls, self.interrupted_at = [], interrupted_at

    def __call__(self, first, last, progress):
        self.calls.append((first, last))
        if first == self.interrupted_at:
            raise KeyboardInterrupt
        return [{"text": f"Nr. {number} – café\n\ud800"} for number in range(first, last)]


def write(path, num_texts=8, batch_size=3, settings=SETTINGS, sample=None):
    sample = sample or Sampler()
    write_lines(path, num_texts, batch_size, settings, sample, start_processes())
    return sample.calls


def test_a_file_torn_at_any_byte_is_gone_on_with(tmp_path):
    path, whole = tmp_path / "texts.jsonl", tmp_path / "whole.jsonl"
    assert write(whole) == [(0, 3), (3, 6), (6, 8)]
    content = whole.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    assert [row["id"] for row in rows] == list(range(8)) and rows[4]["text"] == "Nr. 4 – café\n\ud800"
    (tmp_path / "texts.settings.json").write_bytes((tmp_path / "whole.settings.json").read_bytes())
    ends = [content.index(b'{"id": 3'), content.index(b'{"id": 6'), len(content)]
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        calls = write(path, batch_size=5)  # the size that the file was begun with is kept
        assert len(calls) == 3 - sum(end <= size for end in ends)
        assert path.read_bytes() == content


def test_an_interrupted_command_goes_on(tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write(path, sample=Sampler(interrupted_at=6))
    assert len(path.read_bytes().splitlines()) == 6
    assert write(path) == [(6, 8)] and "2 texts in" in capsys.readouterr().out
    assert write(path) == [] and "already has all 8 texts" in capsys.readouterr().out


def test_many_texts_are_sampled_in_batches_and_the_first_are_printed(tmp_path, capsys):
    calls = write(tmp_path / "texts.jsonl", num_texts=1000, batch_size=64)
    assert len(calls) == 16 and max(last - first for first, last in calls) == 64
    printed = capsys.readouterr().out
    assert "Nr. 7 " in printed and "Nr. 8 " not in printed and "1000 texts in" in printed


def test_other_settings_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("mine\n")
    with pytest.raises(ConfigError, match="exists, and texts.settings.json, which says .* name another file"):
        write(path)
    assert path.read_text() == "mine\n"
    path.unlink()
    write(path)
    content = path.read_bytes()
    for options, said in (
        ({"settings": SETTINGS | {"seed": 2}}, "begun with seed=1, and this command has seed=2"),
        ({"settings": SETTINGS | {"decoding": {"strategy": "greedy"}}}, 'strategy="beam", and this command'),
        ({"settings": SETTINGS | {"eta": 1}}, "eta=null, and this command has eta=1"),
        ({"num_texts": 9}, "num_texts=8, and this command has num_texts=9"),
    ):
        with pytest.raises(ConfigError, match=said):
            write(path, **options)
    spoiled = {"batch_size": -1, "num_texts": 8}
    (tmp_path / "texts.settings.json").write_text(json.dumps(spoiled))
    with pytest.raises(ConfigError, match="batch_size of .* is -1"):
        write(path)
    (tmp_path / "texts.settings.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read as JSON"):
        write(path)
    assert path.read_bytes() == content


def test_other_versions_are_refused(tmp_path, monkeypatch):
    write(tmp_path / "texts.jsonl")
    monkeypatch.setattr(text_lines, "__version__", "0.0")
    with pytest.raises(ConfigError, match='this command has ld4lg_fast="0.0"'):
        write(tmp_path / "texts.jsonl")


@pytest.mark.parametrize("spoil", [lambda lines: lines[1:] + lines[:1], lambda lines: lines + lines[:1]])
def test_a_changed_file_is_refused(spoil, tmp_path):
    path = tmp_path / "texts.jsonl"
    write(path)
    path.write_bytes(b"".join(spoil(path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(CheckpointError, match="is damaged: .* delete it and texts.settings.json"):
        write(path)


def test_what_cannot_be_written_is_said_and_what_was_written_stays(tmp_path):
    lines = TextLines.open(tmp_path / "texts.jsonl", 4, 2, SETTINGS)
    assert not list(tmp_path.iterdir()), "nothing is written before there is a text"
    lines.append([{"text": "a"}, {"text": "b"}])
    other = TextLines.open(tmp_path / "texts.jsonl", 4, 2, SETTINGS)
    other.append([{"text": "c"}, {"text": "d"}])
    content = (tmp_path / "texts.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match="was changed while this command wrote to it"):
        lines.append([{"text": "c"}, {"text": "d"}])
    lines.path = tmp_path / "no" / "folder.jsonl"
    with pytest.raises(CheckpointError, match="cannot be written .* goes on after 2 texts"):
        lines.append([{"text": "c"}, {"text": "d"}])
    assert (tmp_path / "texts.jsonl").read_bytes() == content


@pytest.fixture
def run_dir(autoencoder, tmp_path):
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def inferred(run_dir, path, monkeypatch, *options):
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={path}", *FEW, *options]
    monkeypatch.setattr(sys, "argv", ["infer.py", *arguments])
    infer.main()


def test_infer_writes_lines_of_the_same_texts_as_one_object(run_dir, tmp_path, monkeypatch):
    options = ["generation.num_samples=5", "generation.batch_size=2"]
    inferred(run_dir, tmp_path / "texts.json", monkeypatch, *options)
    real, calls = TextDiffusionPipeline.__call__, []

    def interrupted(self, num_samples, **options):
        calls.append(options["sample_ids"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, num_samples, **options)

    monkeypatch.setattr(TextDiffusionPipeline, "__call__", interrupted)
    with pytest.raises(SystemExit, match="130"):
        inferred(run_dir, tmp_path / "texts.jsonl", monkeypatch, *options)
    inferred(run_dir, tmp_path / "texts.jsonl", monkeypatch, *options)
    assert calls == [[0, 1], [2, 3], [2, 3], [4]]
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text().splitlines()]
    texts = json.loads((tmp_path / "texts.json").read_text())["texts"]
    assert rows == [{"id": number, "text": text} for number, text in enumerate(texts)]
    with pytest.raises(SystemExit, match="2"):
        inferred(run_dir, tmp_path / "texts.jsonl", monkeypatch, *options, "generation.seed=1")


def test_sample_chooses_the_same_texts_for_both_files(run_dir, tmp_path, monkeypatch):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    monkeypatch.setattr(sampled_texts, "CHOSEN_TOGETHER", 2)
    path = tmp_path / "texts.jsonl"
    command = ["sample", str(run_dir), "--num-samples", "5", "--best-of", "2", "--strategy", "greedy"]
    command += ["--num-inference-steps", "2", "--json"]
    for file in (path, tmp_path / "texts.json"):
        result = CliRunner().invoke(app, [*command, str(file)])
        assert result.exit_code == 0, result.output
    command.append(str(path))
    options = {"num_inference_steps": 2, "decoding": "greedy", "best_of": 2}
    texts = [
        *pipe(2, sample_ids=range(4), **options).texts,
        *pipe(2, sample_ids=range(4, 8), **options).texts,
        *pipe(1, sample_ids=range(8, 10), **options).texts,
    ]
    assert texts != pipe(5, **options).texts, "these are not enough to tell the two choices apart"
    assert json.loads((tmp_path / "texts.json").read_text())["texts"] == texts
    assert [json.loads(line)["text"] for line in path.read_text().splitlines()] == texts
    before = path.read_bytes()
    for size in (0, len(before) // 2, len(before) - 1):
        path.write_bytes(before[:size])
        monkeypatch.setattr("ld4lg_fast.engine.engine.CPU_BATCH", 3)  # the device has other memory now
        assert CliRunner().invoke(app, command).exit_code == 0 and path.read_bytes() == before
    refused = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert isinstance(refused.exception, ConfigError)
    assert "begun with seed=0, and this command has seed=1" in str(refused.exception)
