"""Reading the files of published checkpoints: weights without running code, settings strictly by name."""

import json
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError
from torch import Tensor
from yaml import YAMLError

from ld4lg_fast.errors import CheckpointError, LD4LGError
from ld4lg_fast.interop import some

_ABSENT = object()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors that are raised inside begin with the file's path."""
    try:
        yield
    except LD4LGError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_file(path: Path) -> Mapping[str, Any]:
    """A checkpoint file's content on the CPU; tensors of .pt and .bin files stay on disk until they are used.

    Raises:
        CheckpointError: the file is missing or damaged, is no mapping, or holds what only pickle can make.
    """
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} does not exist.")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        if culprit is None:
            raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint; copy it again.") from error
        raise CheckpointError(
            f"{path} holds an object of {culprit[1]}, which only unrestricted unpickling could load, and "
            "that can run any code; if you trust the file, load it in the environment that wrote it and save "
            "its tensors alone, as .safetensors or with torch.save."
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint; copy it again.") from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__} instead of named weights.")
    return content


def find_weights(content: Mapping[str, Any], root: str) -> tuple[dict[str, Tensor], bool]:
    """The state dict that has names under ``root``, and whether it is the averaged copy.

    Looked for under ``ema``, then under ``model``, then in the file itself; wrappers' prefixes are taken off
    (``ema_model.`` of ema-pytorch, ``module.`` of data-parallel training).

    Raises:
        CheckpointError: nothing is named so, or what is there is no tensor.
    """
    for section, averaged in ((content.get("ema"), True), (content.get("model"), False), (content, False)):
        if not isinstance(section, Mapping):
            continue
        state = dict(section)
        for wrapper in ("ema_model.", "module."):
            if inner := under(state, wrapper):
                state, averaged = inner, averaged or wrapper == "ema_model."
        if under(state, root):
            strays = [key for key, value in state.items() if not isinstance(value, Tensor)]
            if strays:
                raise CheckpointError(f"The state dict holds something else than tensors: {some(strays)}.")
            return state, averaged
    raise CheckpointError(
        f"There are no weights named {root}*, but {some(content)}; is it another kind of model?"
    )


def under(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The entries whose names begin with ``prefix``, under the rest of their names."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def check_known(state: Mapping[str, Tensor], prefixes: Iterable[str], names: Iterable[str]) -> None:
    """Refuses entries that are neither called one of ``names`` nor begin with one of ``prefixes``.

    Raises:
        CheckpointError: the message names them.
    """
    prefixes, names = tuple(prefixes), set(names)
    if unknown := [key for key in state if not key.startswith(prefixes) and key not in names]:
        raise CheckpointError(f"The checkpoint holds tensors that have no place here: {some(unknown)}.")


def latent_statistics(
    state: Mapping[str, Tensor], mean: str, scale: str, dim_latent: int
) -> tuple[Tensor, Tensor]:
    """The latents' mean (d,) and their one scale (), which published files store with shape () or (1,).

    Raises:
        CheckpointError: one is missing or has another shape.
    """
    if missing := [name for name in (mean, scale) if name not in state]:
        raise CheckpointError(f"The checkpoint lacks these tensors: {some(missing)}.")
    if state[mean].shape != (dim_latent,) or state[scale].numel() != 1:
        raise CheckpointError(
            f"{mean} has the shape {tuple(state[mean].shape)} and {scale} {tuple(state[scale].shape)}; "
            f"they should be ({dim_latent},) and ()."
        )
    return state[mean].float(), state[scale].float().reshape(())


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Settings:
    """A published configuration (args.json, Hydra's config.yaml); what is missing or misshapen is named."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = (
                json.loads(path.read_text(encoding="utf-8"))
                if path.suffix == ".json"
                else OmegaConf.load(path)
            )
            if not isinstance(content, Mapping):
                raise ValueError("it is no mapping")
            self._content = OmegaConf.create(content)
        except FileNotFoundError as error:
            raise CheckpointError(
                f"{path} does not exist; a checkpoint can only be imported with the settings that it was "
                "trained with, so copy that file from where it was trained."
            ) from error
        except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
            raise CheckpointError(f"{path} cannot be read as settings ({_on_one_line(error)}).") from error

    def __contains__(self, name: str) -> bool:
        return OmegaConf.select(self._content, name, default=_ABSENT) is not _ABSENT

    def take(self, name: str, *kinds: type | None) -> Any:
        """The entry at a dotted path; ``kinds`` are the types it may have, None for null.

        Raises:
            CheckpointError: no such entry, or one of another type.
        """
        try:
            value = OmegaConf.select(self._content, name, default=_ABSENT, throw_on_missing=True)
        except OmegaConfBaseException as error:
            reason = _on_one_line(error)
            raise CheckpointError(f"{self.path}: the entry {name} cannot be read ({reason}).") from error
        if value is _ABSENT:
            raise CheckpointError(
                f"{self.path} has no entry {name}; it is of another version or of another system."
            )
        if value is None and None in kinds:
            return None
        types = tuple(kind for kind in kinds if kind is not None)
        if float in types:
            types += (int,)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            wanted = " or ".join("null" if kind is None else kind.__name__ for kind in kinds)
            raise CheckpointError(f"{self.path} has {name}={value!r}, where {wanted} is expected.")
        return value

    def agree(self, found: Mapping[str, Any], weights: Path) -> None:
        """Compares entries with what the weights are like.

        Raises:
            CheckpointError: the first that differs.
        """
        for name, value in found.items():
            said = self.take(name, type(value))
            if said != value:
                raise CheckpointError(
                    f"{self.path} says {name}={said} but {weights} was made with {value}; "
                    "the two files belong to different runs."
                )
