"""Reads an exported folder's config and verifies its files."""

import hashlib
from pathlib import Path

from .errors import RuntimeInputError
from .external_data import check_external_data
from .folder_schema import FORMAT, PROOFS, TOKENIZER, FolderConfig, digest_of, parse_config
from .json_files import REMEDY, read_json, size_of
from .option_checks import shown
from .text_display import displayed, get_logger

CONFIG = "config.json"
MOST_FILE_BYTES = 2**26  # of a file without weights; the graphs determine the sizes of files with weights


def read_config(folder: Path) -> FolderConfig:
    """The folder's config, after a check that all files exist and are unchanged since the export.

    Folders of version 0.1.0 have no checksums, which a warning says.

    Raises:
        RuntimeInputError: a folder that is missing, damaged, changed, or not an exported one.
    """
    if not folder.is_dir():
        raise RuntimeInputError(f"The folder {folder} does not exist; write one with ld4lg export.")
    content = read_json(folder / CONFIG)
    if not isinstance(content, dict) or "format" not in content:
        raise RuntimeInputError(f"{folder} is no folder that ld4lg export wrote; name another one.")
    if content["format"] != FORMAT:
        raise RuntimeInputError(
            f"{folder} has the format {shown(content['format'])}; this runtime reads format {FORMAT}."
        )
    try:
        config = parse_config(content)
    except RuntimeInputError as error:
        raise RuntimeInputError(f"{folder / CONFIG} is damaged: {str(error)[:-1]}; {REMEDY}.") from error
    given = [name for name in PROOFS if getattr(config, name) is not None]
    if not given:
        get_logger(__name__).warning(
            "%s was exported by version 0.1.0, without checksums: whether its files were changed since could not be "
            "checked.",
            displayed(str(folder)),
        )
    elif len(given) < len(PROOFS) or config.digest != digest_of(content):
        raise RuntimeInputError(f"{folder / CONFIG} was changed since the export; {REMEDY}.")
    _check_files(folder, config)
    return config


def _check_files(folder: Path, config: FolderConfig) -> None:
    graphs = [f"{graph}.onnx" for graph in config.graphs]
    for name in (TOKENIZER, *graphs, *(config.sha256 or ())):
        if name not in config.files:
            raise RuntimeInputError(f"{folder / CONFIG} is damaged: files.{name} is missing; {REMEDY}.")
    weights: dict[str, int] = {}
    for name in graphs:
        _check_file(folder, config, name, MOST_FILE_BYTES)
        for place, used in check_external_data(folder / name, config.files).items():
            weights[place] = max(used, weights.get(place, 0))
    for name in config.files:
        if name not in graphs:
            _check_file(folder, config, name, weights.get(name, MOST_FILE_BYTES))


def _check_file(folder: Path, config: FolderConfig, name: str, most: int) -> None:
    path, size = folder / name, config.files[name]
    if (found := size_of(path)) != size:
        raise RuntimeInputError(f"{path} has {found} bytes instead of {size}; {REMEDY}.")
    if size > most:
        raise RuntimeInputError(f"{path} has {size} bytes, more than the {most} that are of use; {REMEDY}.")
    if config.sha256 is not None and sha256_of(path) != config.sha256.get(name):
        raise RuntimeInputError(f"{path} was changed since the export, or is that of another one; {REMEDY}.")


def sha256_of(path: Path) -> str:
    """The checksum of a file, in hexadecimal digits.

    Raises:
        RuntimeInputError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RuntimeInputError(f"{path} cannot be read ({error.strerror}); {REMEDY}.") from error
