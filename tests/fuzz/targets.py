"""What is fuzzed: folders, the commands that read them, and their cases."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.export.runtime.folder_schema import digest_of
from tests.fuzz.cases import DAMAGE, Case, files_in, rewrite, sampled, without_repetition
from tests.fuzz.file_cases import OF_ANOTHER, file_cases, folder_cases
from tests.fuzz.foreign_cases import foreign_cases
from tests.fuzz.harness import RESUME, RUN_ONNX, SAMPLE, Command, Fuzzer, Result, servers
from tests.fuzz.json_cases import json_cases, yaml_cases
from tests.fuzz.tensor_cases import tensor_cases

HERE = Path(__file__).parent
FINGERPRINT = fingerprint.FILE
LARGE = 1 << 30  # bytes
LIMITS = {"tokenizer.json": 600, FINGERPRINT: 100}  # cases of files with many alike keys


@dataclass(frozen=True)
class Target:
    """A kind of folder (see `good_folders`), another of the same sizes, the command that reads it, and its cases.

    ``seal`` makes what says which files belong together true again.
    """

    kind: str
    other: str | None
    command: Command
    cases: Callable[[Path, Path | None], Iterator[Case]]
    seal: Callable[[Path], None]


def run_directory_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    """All cases of a run directory."""
    for name in files_in(folder):
        yield from file_cases(folder, name, other)
        if name.endswith(".json"):
            yield from json_cases(folder, name, LIMITS.get(Path(name).name))
        if name.endswith(".safetensors"):
            yield from tensor_cases(folder, name)
    for name in ("autoencoder", "autoencoder/language_model", "autoencoder/tokenizer", "denoiser"):
        yield from folder_cases(folder, name, other)
    yield from foreign_cases(folder)


def class_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    """Cases of the JSON keys that only another recipe's files have and that sampling reads."""
    for name in ("statistics.json", "decoding.json", "denoiser/config.json", "autoencoder/autoencoder.json"):
        yield from json_cases(folder, name)


def training_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    """Cases of the files that only training reads: config, checkpoints, caches and logs."""
    for name in files_in(folder):
        path = Path(name)
        if path.parts[0] not in ("checkpoints", "cache", "logs") and name != "config.yaml":
            continue
        if path.parent.name == "step_1":  # of which nothing is read but that it is there
            continue
        yield from file_cases(folder, name, other)
        if path.suffix == ".json":
            yield from json_cases(folder, name, LIMITS.get(path.name))
        if path.suffix == ".safetensors":
            yield from sampled(tensor_cases(folder, name), 60, seed=0)
    yield from sampled(yaml_cases(folder, "config.yaml", yaml.safe_load, yaml.safe_dump), 500, seed=0)


def exported_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    """All cases of an exported folder except its Python code."""
    from tests.fuzz.onnx_cases import onnx_cases

    for name in files_in(folder):
        if name.endswith((".py", ".pyc")):
            continue
        yield from file_cases(folder, name, other)
        if name.endswith(".json"):
            yield from json_cases(folder, name, LIMITS.get(Path(name).name))
        if name.endswith(".onnx"):
            yield from onnx_cases(folder, name)


def exported_config_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    yield from json_cases(folder, "config.json")


def seal_run(folder: Path) -> None:
    """Writes a fingerprint that fits the changed files."""
    path = folder / FINGERPRINT
    if (content := _own(path)) is not None and "files" in content:
        found = (folder / name for name in files_in(folder) if _is_of_the_model(Path(name)))
        content["files"] = {file.relative_to(folder).as_posix(): _digest(file) for file in found}
        rewrite(path, json.dumps(content).encode())


def _is_of_the_model(name: Path) -> bool:
    inside = name.parts[0] in fingerprint.FOLDERS and name.suffix in fingerprint.SUFFIXES
    return inside or str(name) in fingerprint.SINGLE_FILES


def seal_export(folder: Path) -> None:
    """Writes sizes and checksums that fit the files into the exported folder's config."""
    path = folder / "config.json"
    if (content := _own(path)) is None or not isinstance(content.get("files"), dict):
        return
    for name in content["files"]:
        if isinstance(name, str) and (folder / name[:200].replace("\0", "")).is_file():
            content["files"][name] = (folder / name).stat().st_size
            if isinstance(content.get("sha256"), dict) and name in content["sha256"]:
                content["sha256"][name] = _digest(folder / name)
    if "digest" in content:
        content["digest"] = digest_of(content)
    rewrite(path, json.dumps(content).encode())


def _own(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None if the case left no valid one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _digest(path: Path) -> str:
    """The checksum of a file; that of empty content for a file above `LARGE`."""
    return hashlib.sha256(path.read_bytes() if path.stat().st_size < LARGE else b"").hexdigest()


RUN_DIRECTORY = (
    Target("shipped", "shipped_other", SAMPLE, run_directory_cases, seal_run),
    Target("classes", None, SAMPLE, class_cases, seal_run),
)
EXPORTED_FOLDER = (
    Target("exported", "exported_other", RUN_ONNX, exported_cases, seal_export),
    Target("exported_classes", None, RUN_ONNX, exported_config_cases, seal_export),
)
TRAINING = (Target("trained", None, RESUME, training_cases, seal_run),)
TARGETS = {"run": RUN_DIRECTORY, "exported": EXPORTED_FOLDER, "resume": TRAINING}
SEALED = "sealed again: "


def fuzz(
    what: str,
    count: int | None = None,
    seed: int = 0,
    names: Sequence[str] = (),
    workers: int = 1,
    python: str = sys.executable,
    sealed_again: bool | None = None,
    report: Callable[[Result], object] = lambda result: None,
    done: Collection[str] = (),
) -> list[Result]:
    """Runs ``count`` cases of a name in `TARGETS`, half of them sealed again; all of both if None.

    Args:
        names: runs those whose names contain one of these instead.
        sealed_again: takes only those that are (not) sealed again.
        report: called with each result. done: names of cases to skip.
    """
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        place, pool = Path(temporary), []
        for target in TARGETS[what]:
            _make(target.kind, place, python)
            other = target.other and place / target.other
            for case in without_repetition(target.cases(place / target.kind, other)):
                plain = replace(case, name=f"{target.kind}/{case.name}", kind=DAMAGE)
                again = replace(case, name=f"{SEALED}{plain.name}")
                pool += [plain] * (sealed_again is not True) + [again] * (sealed_again is not False)
        if names:
            pool = [case for case in pool if any(name in case.name for name in names)]
        chosen = [case for case in sampled(pool, None if names else count, seed) if case.name not in done]
        with servers(python, place, workers) as idle:
            for target in TARGETS[what]:
                for seal in (None, target.seal):
                    start = f"{SEALED if seal else ''}{target.kind}/"
                    cases = [case for case in chosen if case.name.startswith(start)]
                    if target.other and any(case.name.endswith(OF_ANOTHER) for case in cases):
                        _make(target.other, place, python)
                    if cases:
                        results += Fuzzer(target.command, place / target.kind, seal, report).run(cases, idle)
    return results


def _make(kind: str, place: Path, python: str) -> None:
    """Makes an unchanged folder if it does not exist yet."""
    if (place / kind).exists():
        return
    command = [python, "-P", str(HERE / "good_folders.py"), kind, str(place / kind)]
    made = subprocess.run(command, capture_output=True, text=True, cwd=place)
    if made.returncode:
        raise RuntimeError(f"{kind} cannot be made: {made.stderr[-2000:]}")
