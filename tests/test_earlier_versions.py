"""Run directories and exported folders that earlier versions wrote are read, and give what they gave then."""

import json
import logging
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training import main

ARCHIVES = Path(__file__).parent / "earlier_versions"
COMMITS = sorted(path.stem for path in ARCHIVES.glob("*.json"))
SIX_TEXTS = {"sampler": "ddim", "num_inference_steps": 5, "seed": 3}


@pytest.fixture(scope="module", params=COMMITS)
def commit(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def expected(commit) -> dict:
    return json.loads((ARCHIVES / f"{commit}.json").read_text(encoding="utf-8"))


@pytest.fixture
def folders(commit, tmp_path) -> Path:
    """Holds ``run`` and ``exported``."""
    with tarfile.open(ARCHIVES / f"{commit}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def test_a_run_samples_the_same_texts_and_says_that_it_was_not_checked(folders, expected, caplog):
    assert not (folders / "run" / "fingerprint.json").exists()
    with caplog.at_level(logging.WARNING):
        pipe = TextDiffusionPipeline.from_pretrained(folders / "run")
        assert pipe(6, **SIX_TEXTS).texts == expected["texts"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folders / 'run'} has no fingerprint.json, as runs of earlier versions: "
        "it could not be checked that its files belong together."
    )


def test_a_run_resumes_with_the_same_losses(folders, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ld4lg"])
    run_dir = folders / "run"
    main(["resume=true", f"hydra.run.dir={run_dir}", "train.diffusion.steps=3"])
    records = map(json.loads, (run_dir / "logs" / "train.jsonl").read_text().splitlines())
    losses = {
        name: record[name]
        for record in records
        if (record["stage"], record["step"]) == ("diffusion", 3)
        for name in ("loss", "validation_loss")
        if name in record
    }
    assert losses == pytest.approx(expected["step_3"], rel=1e-5)
    assert (run_dir / "fingerprint.json").exists(), "what today's version writes, it can check"


def test_an_exported_folder_samples_the_same_texts_and_says_that_it_was_not_checked(
    folders, expected, caplog
):
    pytest.importorskip("onnxruntime")
    from ld4lg_fast.export.runtime import OnnxTextDiffusion

    folder = folders / "exported"
    with caplog.at_level(logging.WARNING):
        assert OnnxTextDiffusion(folder, threads=1)(6, **SIX_TEXTS) == expected["texts"]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folder} was exported by version 0.1.0, without checksums: "
        "whether its files were changed since could not be checked."
    )
    command = "from ld4lg_fast.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "run-onnx", folder, "--num-inference-steps", "2"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == record.getMessage() + "\n"


def test_damage_to_an_exported_folder_without_checksums_is_noticed(folders):
    pytest.importorskip("onnxruntime")
    from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError

    damages = {
        "weights.bin": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "denoiser.onnx": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "cache.onnx": Path.unlink,
    }
    for name, damage in damages.items():
        path = folders / "exported" / name
        whole = path.read_bytes()
        damage(path)
        with pytest.raises(RuntimeInputError, match=re.escape(name)):
            OnnxTextDiffusion(folders / "exported")
        path.write_bytes(whole)


def test_an_exported_folder_still_runs_by_itself(folders, expected):
    """With its own runtime, which is of the version that exported it, and the packages of today."""
    pytest.importorskip("onnxruntime")
    command = [sys.executable, "generate.py", "--num-samples", "6", "--sampler", "ddim"]
    command += ["--steps", "5", "--seed", "3"]
    done = subprocess.run(
        [*command, "--json", "texts.json"], cwd=folders / "exported", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((folders / "exported" / "texts.json").read_text())["texts"] == expected["texts"]
