"""Exported folders for tests: copies, changes, new checksums after a change, and refusals."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from ld4lg_fast.export.runtime.folder import sha256_of
from ld4lg_fast.export.runtime.folder_schema import digest_of
from tests.export.export_models import MAKERS, saved

OPTIONS = {
    "num_samples": 3,
    "num_inference_steps": 3,
    "sampler": "ddim",
    "seed": 1,
    "strategy": "greedy",
    "max_length": 12,
}


def small_export(tokenizer, place: Path) -> Path:
    """A tiny model of recipe v2 with random weights, exported."""
    return export_run(saved(MAKERS["v2_bart"](tokenizer), place), place / "out", validate=False)


def copied(folder: Path, target: Path) -> Path:
    """A copy that may be changed."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("__pycache__"))


def content_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def changed(content: dict, path: tuple, value: object) -> dict:
    """The content with another value at a path of keys and indices."""
    content = node = copy.deepcopy(content)
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


def seal(folder: Path, content: dict | None = None) -> None:
    """Writes matching sizes, checksums and digest, as somebody would who changes a folder on purpose."""
    content = content_of(folder) if content is None else content
    names = [name for name in content["files"] if (folder / name).is_file()]
    content["files"] = {name: (folder / name).stat().st_size for name in names}
    if "sha256" in content:
        content["sha256"] = {name: sha256_of(folder / name) for name in names}
        content["digest"] = digest_of(content)
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")


def refused(folder: Path, *names: str) -> str:
    """The sentence that refuses the folder, after a check that it contains the given names."""
    with pytest.raises(RuntimeInputError) as caught:
        OnnxTextDiffusion(folder, threads=1)(**OPTIONS)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(sentence) < 700 and all(name in sentence for name in names), sentence
    return sentence


def change_graph(folder: Path, name: str, change: Callable[[onnx.ModelProto], None]) -> None:
    """Rewrites a graph without moving its weights, and updates the checksums."""
    model = onnx.load(folder / name, load_external_data=False)
    change(model)
    (folder / name).write_bytes(model.SerializeToString())
    seal(folder)
