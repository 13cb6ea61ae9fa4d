"""`ld4lg verify`: the first steps of a training made again, and its stored texts."""

import json
import sys

import pyarrow as pa
import pytest

from ld4lg_fast.checkpoints import shipped
from ld4lg_fast.cli import main as cli
from ld4lg_fast.data import TextDataset, TextSplit
from ld4lg_fast.data.texts import Texts
from ld4lg_fast.training import training_record
from ld4lg_fast.training.training_record import STEPS, data_fingerprint
from tests.training.small_runs import STEPS as FEW
from tests.training.small_runs import command, losses


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verified") / "run"
    command(folder, "train.max_minutes=30")  # whose learning rates depend on the time
    return folder


def test_a_fingerprint_is_of_the_content_wherever_the_corpus_lies(monkeypatch):
    monkeypatch.setattr(training_record, "SAMPLED", 8)
    rows, labels = [f"text {i}" for i in range(20)], [i % 2 for i in range(20)]

    def of(texts, labels):
        split = TextSplit(texts, labels)
        return data_fingerprint(TextDataset("demo", split, split, split, None, "here"))

    def on_disk(rows, folder):
        return Texts(pa.chunked_array([rows[:7], rows[7:]]), folder)

    others = [(rows[:-1], labels[:-1]), (["other", *rows[1:]], labels), (rows, [1, *labels[1:]])]
    assert len({of(*columns) for columns in [(rows, labels), *others]}) == 4
    known = of(on_disk(rows, "one folder"), labels)
    assert of(on_disk(rows, "another folder"), labels) == known
    assert len({known, *(of(on_disk(texts, "one folder"), own) for texts, own in others)}) == 4


@pytest.fixture
def copy(run_dir, tmp_path):
    import shutil

    shutil.copytree(run_dir, tmp_path / "run")
    return tmp_path / "run"


def verify(monkeypatch, capsys, *arguments):
    """Exit code, and what was printed."""
    monkeypatch.setattr(sys, "argv", ["ld4lg", "verify", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return stopped.value.code, " ".join((printed.out + printed.err).split())


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_record_has_config_seed_data_versions_and_losses(run_dir):
    stages = json.loads((run_dir / "training_record.json").read_text())["stages"]
    assert list(stages) == ["autoencoder", "diffusion"] and FEW < STEPS
    for name, record in stages.items():
        assert (
            record["losses"] == list(losses(run_dir, name).values()) and len(record["learning_rates"]) == FEW
        )
        assert record["seed"] == 42 and record["config"]["dataset"]["name"] == "demo"
        assert len(record["data"]) == 64 and "torch" in record["versions"] and record["machine"]["device"]


def test_a_run_repeats_bit_by_bit(run_dir, monkeypatch, capsys):
    before = sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*"))
    code, printed = verify(monkeypatch, capsys, run_dir)
    assert code == 0 and printed.count("Repeated: the") == 2 and printed.count("bit-equal") == 2
    assert before == sorted((path, path.stat().st_mtime_ns) for path in run_dir.rglob("*"))


def test_another_loss_is_a_difference(copy, monkeypatch, capsys):
    def change(content):
        content["stages"]["diffusion"]["losses"][3] *= 1 + 1e-6

    edit(copy / "training_record.json", change)
    code, printed = verify(monkeypatch, capsys, copy)
    assert code == 1 and "Different: the diffusion stage's first 6 losses" in printed and "step 4" in printed


@pytest.mark.parametrize(("factor", "code"), [(1.01, 0), (1.2, 1)])
def test_elsewhere_there_is_a_bound(copy, monkeypatch, capsys, factor, code):
    def change(content):
        for record in content["stages"].values():
            record["machine"]["device"] = "an abacus"
            record["losses"] = [factor * loss for loss in record["losses"]]

    edit(copy / "training_record.json", change)
    found, printed = verify(monkeypatch, capsys, copy)
    assert found == code and "equal up to 5%, as device was an abacus" in printed


def test_another_corpus_is_said(copy, monkeypatch, capsys):
    def change(content):
        content["stages"]["autoencoder"]["data"] = "0" * 64

    edit(copy / "training_record.json", change)
    code, printed = verify(monkeypatch, capsys, copy)
    assert code == 2 and "is not the corpus that the autoencoder stage" in printed


def test_a_run_without_a_record(copy, monkeypatch, capsys):
    (copy / "training_record.json").unlink()
    code, printed = verify(monkeypatch, capsys, copy)
    assert code == 2 and "has no training_record.json" in printed and "--samples" in printed


def test_an_interrupted_record_goes_on(tmp_path):
    command(tmp_path / "whole")
    command(tmp_path / "parts", "train.stage=autoencoder", f"train.autoencoder.steps={FEW - 2}")
    command(tmp_path / "parts", "resume=true", "train.stage=all", f"train.autoencoder.steps={FEW}")
    first = json.loads((tmp_path / "parts" / "training_record.json").read_text())["stages"]
    assert [len(record["losses"]) for record in first.values()] == [FEW, FEW]


def test_stored_texts_come_back(copy, monkeypatch, capsys):
    code, printed = verify(monkeypatch, capsys, copy, "--samples")
    assert code == 0 and "Repeated: 8 of 8 stored texts came back" in printed
    stored = copy / "samples" / "stored.json"
    edit(stored, lambda content: content["texts"]["1"].__setitem__(0, "no such text"))
    code, printed = verify(monkeypatch, capsys, copy, "--samples")
    assert code == 1 and "Different: 7 of 8 stored texts" in printed
    edit(stored, lambda content: content["machine"].update(device="an abacus"))
    code, printed = verify(monkeypatch, capsys, copy, "--samples")
    assert code == 0 and "at least 75% must" in printed
    stored.unlink()
    code, printed = verify(monkeypatch, capsys, copy, "--samples")
    assert code == 2 and "stored.json does not exist" in printed


@pytest.mark.parametrize("name", shipped.shipped_models())
def test_models_that_ship_repeat_their_stored_texts(name, monkeypatch, capsys):
    code, printed = verify(monkeypatch, capsys, name, "--samples")
    assert code == 0 and "Repeated: " in printed
    code, printed = verify(monkeypatch, capsys, name)
    assert code == 2 and "has no training_record.json" in printed
