"""``fingerprint.json``: the SHA-256 of every model file of a run.

It detects damaged copies, files of another run and manual edits. It is no signature: whoever changes a file can also
write a matching fingerprint.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ld4lg_fast.checkpoints.files import MAX_JSON_BYTES, check_size, write_json
from ld4lg_fast.checkpoints.schemas import FingerprintFile, read
from ld4lg_fast.checkpoints.tensors import read_header
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.text_display import get_logger

FILE = "fingerprint.json"
FOLDERS = ("autoencoder", "denoiser", "guides")
SINGLE_FILES = ("statistics.json", "decoding.json")
SUFFIXES = (".json", ".safetensors", ".model", ".txt", ".jinja")  # what transformers may read in a folder

logger = get_logger("ld4lg_fast")


def _files(run_dir: Path) -> dict[str, Path]:
    """Model files by their path in the run directory, without hidden and documentation files."""
    inside = (path for folder in FOLDERS for path in sorted((run_dir / folder).rglob("*")))
    found = [path for path in inside if path.suffix in SUFFIXES and not path.name.startswith(".")]
    found += [path for name in SINGLE_FILES if os.path.lexists(path := run_dir / name)]
    return {path.relative_to(run_dir).as_posix(): path for path in found}


def _digest(path: Path) -> str:
    """SHA-256 of a file of bounded size: the size in the header for weights, a fixed limit for others.

    Raises:
        CheckpointError: the file is larger, or no regular file.
    """
    if path.suffix == ".safetensors":
        read_header(path)
    else:
        check_size(path, MAX_JSON_BYTES)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def renewed(run_dir: Path) -> Iterator[None]:
    """Context manager around writing model files: removes the fingerprint, then writes the new one.

    An interruption thus leaves no fingerprint instead of a wrong one. It is written once the run has both models.
    """
    path = run_dir / FILE
    path.unlink(missing_ok=True)
    yield
    files = _files(run_dir)
    if {"autoencoder/autoencoder.json", "denoiser/config.json"} <= files.keys():
        write_json(path, {"format": 1, "files": {name: _digest(file) for name, file in files.items()}})


def check(run_dir: Path) -> None:
    """Compares the files of a run with its fingerprint; logs a warning if there is none.

    Raises:
        CheckpointError: a file was changed, added or removed, or the fingerprint is damaged.
    """
    path = run_dir / FILE
    if not os.path.lexists(path):
        logger.warning(
            "%s has no %s, as runs of earlier versions: it could not be checked that its files belong together.",
            run_dir,
            FILE,
        )
        return
    written = read(FingerprintFile, path, "a run directory").files
    found = _files(run_dir)
    remedy = f"restore it from where the run came from, or delete {path} if you changed it on purpose"
    for name in sorted(written.keys() | found.keys()):
        if name not in found:
            raise CheckpointError(f"{run_dir / name} is missing; {remedy}.")
        if name not in written:
            raise CheckpointError(f"{found[name]} is no file of this run; remove it, or delete {path}.")
        try:
            same = _digest(found[name]) == written[name]
        except OSError as error:
            raise CheckpointError(f"{found[name]} cannot be read ({error.strerror}); {remedy}.") from error
        if not same:
            raise CheckpointError(f"{found[name]} is not the file that this run was saved with; {remedy}.")
