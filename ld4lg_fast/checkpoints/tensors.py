"""Weights as safetensors, read strictly: names, shapes, dtypes and finite numbers, the shapes before any memory is
taken for them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ld4lg_fast.checkpoints.files import size_of, write_atomically
from ld4lg_fast.errors import CheckpointError, ConfigError


class OtherModelError(CheckpointError):
    """The tensors of a whole file have other names, shapes or dtypes than the model."""


FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def tied_names(module: nn.Module) -> dict[str, str]:
    """Parameters and buffers that are one object: later name -> first name."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if (known := first.setdefault(id(tensor), name)) != name:
            tied[name] = known
    return tied


def check_weights(module: nn.Module, *paths: Path) -> None:
    """Refuses safetensors files whose tensors are not those of ``module``, which may lie on the meta device.

    Raises:
        OtherModelError: a tensor is missing, superfluous, or of another shape or kind of dtype; the message names it.
        CheckpointError: a missing or damaged file.
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
    problems = [f"{name} is missing" for name in sorted(absent)]
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


def read_weights(module: nn.Module, *paths: Path) -> dict[str, Tensor]:
    """The tensors of safetensors files for every name of ``module``'s state dict, tied ones under each of their names.

    ``module`` may lie on the meta device: nothing is allocated before names, shapes and dtypes are those that it has.

    Raises:
        CheckpointError: a missing or damaged file; a tensor that is missing, superfluous, of another shape or kind of
            dtype, or has an element that is not finite. The message names the tensor.
    """
    check_weights(module, *paths)
    tied, where = tied_names(module), ", ".join(str(path) for path in paths)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        tensors |= _load(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise CheckpointError(
                f"{where} is damaged: {name} has elements that are not finite; restore the file, or train again."
            )
    return tensors | {
        name: tensors[kept] for name in module.state_dict() if (kept := _stored_as(name, tied, tensors))
    }


def _stored_as(name: str, tied: Mapping[str, str], stored: Mapping[str, object]) -> str | None:
    """Under which name of the same tensor a missing one is stored."""
    if name in stored:
        return None
    first = tied.get(name, name)
    return next((kept for kept in (first, *tied) if kept in stored and tied.get(kept, kept) == first), None)


def _converts(stored: str, wanted: torch.dtype) -> bool:
    """Whether a stored dtype becomes the wanted one without a change of meaning: floats do, others only themselves."""
    if wanted.is_floating_point:
        return stored in FLOATS
    return stored == {torch.int64: "I64", torch.int32: "I32", torch.bool: "BOOL", torch.uint8: "U8"}.get(
        wanted
    )


def read_header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor of a file, without reading the tensors.

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


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, MemoryError) as error:
        raise CheckpointError(f"{path} is damaged and cannot be loaded ({error}).") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file that no module describes, such as an optimizer's.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    read_header(path)
    return _load(path)


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
    """Loads what `save_weights` wrote into a module of the same shape; see `read_weights`."""
    with torch.no_grad():
        module.load_state_dict(read_weights(module, path))


M = TypeVar("M", bound=nn.Module)


def build_and_load(build: Callable[[], M], config: Path, weights: Path) -> M:
    """The module that ``build`` makes with the weights of a file; it is built where they fit, and not before.

    Raises:
        CheckpointError: the sizes, which stand in the file ``config``, fit no module, or not these weights.
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
