"""What is fuzzed: folders, the commands that read them, and their cases."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from tests.fuzz.cases import Case, files_in, rewrite, sampled, without_repetition
from tests.fuzz.file_cases import file_cases, folder_cases
from tests.fuzz.foreign_cases import foreign_cases
from tests.fuzz.harness import RESUME, RUN_ONNX, SAMPLE, Command, Fuzzer, Result
from tests.fuzz.json_cases import json_cases, yaml_cases
from tests.fuzz.tensor_cases import tensor_cases

HERE = Path(__file__).parent
FINGERPRINT = "fingerprint.json"
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
    """Everything that can be changed in the model that ships."""
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
    """What another recipe's files have besides: the keys of JSON files that are read in sampling."""
    for name in ("statistics.json", "decoding.json", "denoiser/config.json", "autoencoder/autoencoder.json"):
        yield from json_cases(folder, name)


def training_cases(folder: Path, other: Path | None) -> Iterator[Case]:
    """What only training reads of a run directory: its config, checkpoints, caches and logs."""
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
    """Everything that can be changed in an exported folder but its Python code."""
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
    """Writes the fingerprint that fits the files, as somebody would who changed them on purpose."""
    path = folder / FINGERPRINT
    try:
        content = json.loads(path.read_text())
        content["files"] = {name: _digest(folder / name) for name in content["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return  # there is none, or it is what the case changed
    rewrite(path, json.dumps(content).encode())


def seal_export(folder: Path) -> None:
    """Writes sizes and checksums that fit the files into the exported folder's config."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text())
        for name, told in content["files"].items():
            if isinstance(told, int):
                content["files"][name] = (folder / name).stat().st_size
            elif isinstance(told, str):
                content["files"][name] = _digest(folder / name)
            elif isinstance(told, dict):
                size, digest = (folder / name).stat().st_size, _digest(folder / name)
                content["files"][name] = told | {"size": size, "sha256": digest}
        if "sha256" in content:
            content["sha256"] = {name: _digest(folder / name) for name in content["sha256"]}
        if "digest" in content:
            rest = {name: value for name, value in content.items() if name != "digest"}
            canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
            content["digest"] = hashlib.sha256(canonical).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    rewrite(path, json.dumps(content).encode())


def _digest(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > 1 << 30:
        raise OSError("not a file that anybody could have summed")
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
    told: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """Runs so many cases of a name in `TARGETS`, half of them sealed again; None are all of both.

    Args:
        names: runs those whose names contain one of these instead.
        sealed_again: takes only those that are (not) sealed again.
        told: is called with each result.
    """
    results = []
    targets = TARGETS[what]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as temporary:
        prepared = [(target, *_good(target, Path(temporary), python)) for target in targets]
        pool = []
        for target, folder, other in prepared:
            for case in without_repetition(target.cases(folder, other)):
                plain = replace(case, name=f"{target.kind}/{case.name}")
                again = replace(case, name=f"{SEALED}{plain.name}")
                pool += [plain] * (sealed_again is not True) + [again] * (sealed_again is not False)
        if names:
            pool = [case for case in pool if any(name in case.name for name in names)]
        chosen = sampled(pool, None if names else count, seed)
        for target, folder, _ in prepared:
            for seal in (None, target.seal):
                start = f"{SEALED if seal else ''}{target.kind}/"
                cases = [case for case in chosen if case.name.startswith(start)]
                if cases:
                    results += Fuzzer(target.command, folder, seal, python, told).run(cases, workers)
    return results


def _good(target: Target, place: Path, python: str) -> tuple[Path, Path | None]:
    made = []
    for kind in (target.kind, target.other):
        if kind is None:
            made.append(None)
            continue
        command = [python, "-P", str(HERE / "good_folders.py"), kind, str(place / kind)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=place)
        if done.returncode:
            raise RuntimeError(f"{kind} cannot be made: {done.stderr[-2000:]}")
        made.append(place / kind)
    return made[0], made[1]
