"""Weights on disk: safetensors, written atomically, loaded strictly."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ld4lg_fast.errors import CheckpointError


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a crash leaves either the old content or the new.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror}); free some space there or choose another directory."
        ) from error


@contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Around what transformers writes, whose errors are of many kinds.

    Raises:
        CheckpointError: for any of them; the disk is full or the folder cannot be written to.
    """
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{directory} cannot be written ({error}); free some space there or choose another directory."
        ) from error


def write_json(path: Path, content: Mapping) -> None:
    """Writes indented JSON atomically."""
    write_atomically(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict:
    """Reads a JSON object.

    Raises:
        CheckpointError: the file is missing or broken; ``what`` says what it should have been.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path.parent} is not {what}: it has no {path.name}.") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON; the file is damaged ({error}).") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object, so {path.parent} is not {what}.")
    return content


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Tied tensors: later name -> first name of the same memory."""
    first: dict[tuple, str] = {}
    aliases = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            aliases[name] = first[place]
        else:
            first[place] = name
    return aliases


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's state dict as safetensors; tied tensors are stored once."""
    state = module.state_dict()
    tied = _aliases(state)
    tensors = {name: t.detach().cpu().clone().contiguous() for name, t in state.items() if name not in tied}
    write_atomically(path, safetensors.torch.save(tensors))


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads what `save_weights` wrote into a module of the same shape.

    Raises:
        CheckpointError: a missing or damaged file, or tensors that differ in name or shape.
    """
    try:
        state = safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; the checkpoint is incomplete.") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be loaded ({error}).") from error
    own = module.state_dict()
    tied = _aliases(own)
    state |= {name: state[kept] for name, kept in tied.items() if name not in state and kept in state}
    problems = [f"{name} is missing" for name in sorted(own.keys() - state.keys())]
    problems += [f"{name} has no place in this model" for name in sorted(state.keys() - own.keys())]
    problems += [
        f"{name} has the shape {tuple(state[name].shape)} but the model needs {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} belongs to another model: {'; '.join(problems[:3])}{more}.")
    with torch.no_grad():
        module.load_state_dict(state)
