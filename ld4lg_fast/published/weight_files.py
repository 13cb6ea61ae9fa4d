"""Reads the weights of published checkpoints without running code."""

import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.checkpoints.files import size_of
from ld4lg_fast.checkpoints.tensors import load_tensors
from ld4lg_fast.errors import CheckpointError, LD4LGError
from ld4lg_fast.models.parameter_names import some

# The only allowed global of torch's weights unpickler of which a few bytes can allocate any amount of memory.
_BYTE_ARRAYS = re.compile(rb"c(?:builtins|__builtin__)\nbytearray\n")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Context manager that prefixes errors with the file's path."""
    try:
        yield
    except LD4LGError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_file(path: Path) -> Mapping[str, Any]:
    """A checkpoint file's content on the CPU; tensors of .pt and .bin files are memory-mapped.

    Raises:
        CheckpointError: the file is missing, damaged, no mapping, or holds objects that need unrestricted pickle.
    """
    try:
        size_of(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"The checkpoint {path} does not exist.") from error
    if path.suffix == ".safetensors":
        return load_tensors(path)
    try:
        _check_pickles(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit is None:
            raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint; copy it again.") from error
        raise CheckpointError(
            f"{path} holds an object of {culprit[1]}, which only unrestricted unpickling could load, and "
            "that can run any code; if you trust the file, load it in the environment that wrote it and save "
            "its tensors alone, as .safetensors or with torch.save."
        ) from error
    except Exception as error:  # damaged pickles raise any kind
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint; copy it again.") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of named weights.")
    return content


def _check_pickles(path: Path) -> None:
    """Checks that torch.load cannot allocate far more memory than the file has bytes.

    Raises:
        CheckpointError: parts are compressed, or the pickle creates byte arrays.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
                raise CheckpointError(f"{path} is compressed, which no PyTorch checkpoint is; unpack it.")
            makes_byte_arrays = any(
                _BYTE_ARRAYS.search(archive.read(part)) for part in parts if part.filename.endswith(".pkl")
            )
    else:
        with open(path, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            makes_byte_arrays = _BYTE_ARRAYS.search(content) is not None
    if makes_byte_arrays:
        raise CheckpointError(f"{path} makes byte arrays, which no weights are; save its tensors alone.")


def find_weights(content: Mapping[str, Any], root: str) -> tuple[dict[str, Tensor], bool]:
    """The state dict with names that begin with ``root``, and whether it is the EMA.

    Searched under ``ema``, then ``model``, then at the top level; the prefixes ``ema_model.`` (ema-pytorch) and
    ``module.`` (data-parallel training) are removed.

    Raises:
        CheckpointError: there are no such names, or other values than tensors.
    """
    for section, averaged in ((content.get("ema"), True), (content.get("model"), False), (content, False)):
        if not isinstance(section, Mapping) or not all(isinstance(key, str) for key in section):
            continue
        state = dict(section)
        for wrapper in ("ema_model.", "module."):
            if inner := under(state, wrapper):
                state, averaged = inner, averaged or wrapper == "ema_model."
        if under(state, root):
            strays = [key for key, value in state.items() if not isinstance(value, Tensor)]
            if strays:
                raise CheckpointError(f"The state dict holds something else than tensors: {some(strays)}.")
            for name, tensor in state.items():
                _check_plain(name, tensor)
            return state, averaged
    raise CheckpointError(
        f"There are no weights named {root}*, but {some(content)}; is it another kind of model?"
    )


def _check_plain(name: str, tensor: Tensor) -> None:
    """Checks that a tensor is dense and fully stored in the file.

    Raises:
        CheckpointError: it is sparse, quantised, or larger than its storage.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"{name} is no plain tensor; save its numbers as they are.")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"{name} has the shape {tuple(tensor.shape)}, but the file holds only "
            f"{tensor.untyped_storage().nbytes():,} bytes of it."
        )


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix``, with the prefix removed."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check_known(state: Mapping[str, Tensor], prefixes: Iterable[str], names: Iterable[str]) -> None:
    """Checks that every entry is one of ``names`` or begins with one of ``prefixes``.

    Raises:
        CheckpointError: names the unknown entries.
    """
    prefixes, names = tuple(prefixes), set(names)
    if unknown := [key for key in state if not key.startswith(prefixes) and key not in names]:
        raise CheckpointError(f"The checkpoint holds tensors that have no place here: {some(unknown)}.")


def latent_statistics(
    state: Mapping[str, Tensor], mean: str, scale: str, dim_latent: int
) -> tuple[Tensor, Tensor]:
    """Mean (d,) and scale () of the latents; published files store the scale as () or (1,).

    Raises:
        CheckpointError: one is missing, not finite or has another shape.
    """
    if missing := [name for name in (mean, scale) if name not in state]:
        raise CheckpointError(f"The checkpoint lacks these tensors: {some(missing)}.")
    if state[mean].shape != (dim_latent,) or state[scale].numel() != 1:
        raise CheckpointError(
            f"{mean} has the shape {tuple(state[mean].shape)} and {scale} {tuple(state[scale].shape)}; "
            f"they should be ({dim_latent},) and ()."
        )
    found = state[mean].float(), state[scale].float().reshape(())
    if not (found[0].isfinite().all() and found[1].isfinite() and found[1] > 0):
        raise CheckpointError(f"{mean} and {scale} must be finite, and {scale} above 0; the file is damaged.")
    return found
