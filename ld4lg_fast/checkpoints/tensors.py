"""Reads and writes weights as safetensors, with strict checks of names, shapes, dtypes and finite values.

Shapes are checked before memory is allocated.
"""

import hashlib
import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ld4lg_fast.checkpoints.files import size_of, write_atomically
from ld4lg_fast.errors import CheckpointError, ConfigError


class OtherModelError(CheckpointError):
    """An intact file's tensors differ from the model's in names, shapes or dtypes."""


FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def tied_names(module: nn.Module) -> dict[str, str]:
    """Tied parameters and buffers: later name -> first name."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if (known := first.setdefault(id(tensor), name)) != name:
            tied[name] = known
    return tied


def check_weights(module: nn.Module, *paths: Path, computed: Collection[str] = ()) -> None:
    """Checks that the tensors of safetensors files match ``module``, which may be on the meta device.

    Tensors that are ``computed`` may be missing.

    Raises:
        OtherModelError: names missing or unexpected tensors, or those of another shape or kind of dtype.
        CheckpointError: a file is missing or damaged.
    """
    wanted, stored = module.state_dict(), {}
    for path in paths:
        for name, (dtype, shape) in read_header(path).items():
            if name in stored:
                raise CheckpointError(f"{path} holds the tensor {name}, which another file holds too.")
            stored[name] = (dtype, shape)
    tied = tied_names(module)
    absent = {
        tied.get(name, name) for name in wanted.keys() - stored.keys() if not _stored_as(name, tied, stored)
    }
    problems = [f"{name} is missing" for name in sorted(absent - set(computed))]
    problems += [f"{name} has no place in this model" for name in sorted(stored.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & stored.keys()):
        dtype, shape = stored[name]
        if shape != wanted[name].shape:
            problems.append(
                f"{name} has the shape {tuple(shape)} but the model needs {tuple(wanted[name].shape)}"
            )
        elif not _converts(dtype, wanted[name].dtype):
            problems.append(f"{name} is stored as {dtype}, but the model needs {wanted[name].dtype}")
    where = ", ".join(str(path) for path in paths)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise OtherModelError(f"{where} belongs to another model: {'; '.join(problems[:3])}{more}.")


def read_weights(
    module: nn.Module, *paths: Path, computed: Collection[str] = (), dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The tensors of safetensors files for ``module``'s state dict, tied ones under each of their names.

    ``module`` may be on the meta device; see `check_weights`, which runs before memory is allocated. Tensors that are
    ``computed`` may be missing.

    Args:
        dtype: of floating-point tensors, each of which is converted as it is read; None: as they are stored.

    Raises:
        CheckpointError: as `check_weights`, or a tensor is not finite.
    """
    check_weights(module, *paths, computed=computed)
    tied, where = tied_names(module), ", ".join(str(path) for path in paths)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= _load(path, dtype)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not all_finite(tensor):
            raise CheckpointError(
                f"{where} is damaged: {name} has elements that are not finite; restore the file, or train again."
            )
    return tensors | {
        name: tensors[kept] for name in module.state_dict() if (kept := _stored_as(name, tied, tensors))
    }


def all_finite(tensor: Tensor) -> bool:
    """Whether all elements are finite, a part at a time, as ``isfinite`` copies what it is given."""
    return all(bool(part.isfinite().all()) for part in tensor.flatten().split(2**20))


def _stored_as(name: str, tied: Mapping[str, str], stored: Mapping[str, object]) -> str | None:
    """The stored name of a tied tensor whose own name is missing in the file; None if it is not missing."""
    if name in stored:
        return None
    first = tied.get(name, name)
    return next((kept for kept in (first, *tied) if kept in stored and tied.get(kept, kept) == first), None)


def _converts(stored: str, wanted: torch.dtype) -> bool:
    """Whether a stored dtype may be converted: any float to any float, others only to themselves."""
    if wanted.is_floating_point:
        return stored in FLOATS
    return stored == {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}.get(
        wanted
    )


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of a file, from its header.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        size_of(path)
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; the checkpoint is incomplete.") from error
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be loaded ({error}).") from error


def _load(path: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path) if dtype is None else _converted(path, dtype)
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be loaded ({error}).") from error


def _converted(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors, floating-point ones in ``dtype``.

    The largest is read first, while no other is held: this takes the memory of the result, or of the largest in both
    dtypes.
    """
    sizes = {name: math.prod(shape) for name, (_, shape) in read_header(path).items()}
    found = {}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        # Opened for each tensor: closing the file gives back the pages that were read.
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
            found[name] = tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
            del tensor
    return found


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, unchecked, such as an optimizer's.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    read_header(path)
    return _load(path)


def digest_of(module: nn.Module) -> str:
    """SHA-256 of the names, shapes, dtypes and values of a module's tensors, tied ones once."""
    digest, tied = hashlib.sha256(), tied_names(module)
    for name, tensor in sorted(module.state_dict().items()):
        if name not in tied:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes a module's state dict as safetensors; tied tensors are stored once.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to.
    """
    tied = tied_names(module)
    tensors = {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
        if name not in tied
    }
    write_atomically(path, safetensors.torch.save(tensors))


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads the result of `save_weights` into a module; see `read_weights`."""
    with torch.no_grad():
        module.load_state_dict(read_weights(module, path))


M = TypeVar("M", bound=nn.Module)


def build_and_load(build: Callable[[], M], config: Path, weights: Path) -> M:
    """The module from ``build`` with the weights of a file, which are checked before it is built.

    Raises:
        CheckpointError: the sizes in the file ``config`` are invalid or do not match the weights.
    """
    try:
        with torch.device("meta"):
            skeleton = build()
    except (ConfigError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{config} describes no model: {error}") from error
    state = read_weights(skeleton, weights)
    module = build()
    with torch.no_grad():
        module.load_state_dict(state)
    return module
