"""Checks of option values in calls: numbers, names, texts, devices, tensors, paths; they raise ``ConfigError``."""

import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.guide_options import SCALE as GUIDE_SCALE
from ld4lg_fast.export.runtime.option_checks import (
    OPTIONS,
    Choice,
    Function,
    Number,
    Rule,
    Switch,
    WholeNumber,
    complaint,
    elements,
    plain,
    shown,
    text_complaint,
)

RULES: Mapping[str, Rule] = {
    **OPTIONS,
    "best_of": WholeNumber(1, 10_000),
    "num_texts": WholeNumber(2),
    "max_tokens": WholeNumber(),
    "length": WholeNumber(),
    "guide_scale": GUIDE_SCALE,
    "numeric": Switch(),
    "amount": Number(-1000, 1000),
    "cuda_graph": Switch(),
    "deterministic": Switch(),
    "steer": Function(),
    "progress": Function(),
    "callback": Function(),
}
"""Rules of the package's options by name; choices (samplers, strategies) are checked where they are defined."""


@contextmanager
def as_config_errors() -> Iterator[None]:
    """Raises what the exported runtime's checks refuse as ``ConfigError``, in the same words."""
    try:
        yield
    except RuntimeInputError as error:
        raise ConfigError(str(error)) from error


def check(name: str, value: Any, rule: Rule | None = None) -> None:
    """Refuses a value that ``rule`` does not allow, by default that of the last part of the name in `RULES`.

    Raises:
        ConfigError: one sentence with the name, the value and what it may be.
    """
    said = complaint(name, value, RULES[name.rpartition(".")[2]] if rule is None else rule)
    if said is not None:
        raise ConfigError(said)


def check_options(**values: Any) -> tuple:
    """`check` of options by their names; returns the values, numbers of NumPy and PyTorch as Python numbers."""
    for name, value in values.items():
        check(name, value)
    return tuple(map(plain, values.values()))


def check_given(**values: Any) -> tuple:
    """`check_options` of options that may be None, which stands for a default."""
    check_options(**{name: value for name, value in values.items() if value is not None})
    return tuple(map(plain, values.values()))


def check_choice(name: str, value: Any, names: Collection[str], or_none: bool = False) -> None:
    """Refuses values other than ``names``, and None unless ``or_none``.

    Raises:
        ConfigError: it is something else.
    """
    if not (value is None and or_none):
        check(name, value, Choice(tuple(names)))


def text_list(name: str, texts: str | Sequence[str]) -> list[str]:
    """A list of texts; a single text becomes a list.

    Raises:
        ConfigError: no texts, or something that is not a text.
    """
    given = [texts] if isinstance(texts, str) else elements(texts)
    if given is None:
        raise ConfigError(f"{name} is {shown(texts)}; give a text or a list of them.")
    if not given:
        raise ConfigError(f"{name} is empty; give at least one text.")
    for place, text in enumerate(given):
        check_texts(**{name if isinstance(texts, str) else f"{name}[{place}]": text})
    return given


def check_texts(**texts: Any) -> None:
    """`check` of options that are one text each."""
    for name, text in texts.items():
        if sentence := text_complaint(name, text):
            raise ConfigError(sentence)


def numbers(
    name: str, values: Tensor | Sequence[float], rule: Number, count: int, device: torch.device | str
) -> Tensor:
    """``count`` numbers that ``rule`` allows, (count,) float32, from a tensor, an array or a list.

    Raises:
        ConfigError: other numbers or another number of them.
    """
    return torch.tensor(_checked_elements(name, values, rule, count), dtype=torch.float32, device=device)


def whole_numbers(
    name: str, values: Tensor | Sequence[int], rule: WholeNumber, count: int, device: torch.device | str
) -> Tensor:
    """`numbers` for whole numbers: (count,) int64."""
    if isinstance(values, Tensor) and _is_simple(values, count):
        moved = values.to(device, torch.int64)  # fast path: all are checked at once
        if not ((moved < rule.least) | (moved > rule.most)).any():
            return moved
    return torch.tensor(_checked_elements(name, values, rule, count), dtype=torch.int64, device=device)


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _is_simple(values: Tensor, count: int) -> bool:
    simple = values.layout == torch.strided and not values.is_meta
    return simple and values.dtype in _INTEGERS and values.shape == (count,)


def _checked_elements(name: str, values: Any, rule: Number | WholeNumber, count: int) -> list:
    given = elements(values)
    if given is None:
        raise ConfigError(f"{name} is {shown(values)}; give {count} of them.")
    if len(given) != count:
        raise ConfigError(f"{name} has the shape ({len(given)},); give {count} of them.")
    for place, number in enumerate(given):
        check(f"{name}[{place}]", number, rule)
    return [plain(number) for number in given]


def checked_device(device: torch.device | str | int) -> torch.device:
    """A device by its name, tested with an allocation.

    Raises:
        ConfigError: a device that this machine or this torch does not have.
    """
    try:
        torch.empty(1, device=device).cpu()
        return torch.device(device)
    except (RuntimeError, AssertionError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"The device {shown(device)} is not available here; leave it out or use cpu."
        ) from error


def choose_device(name: str | int | None) -> torch.device:
    """The named device, or the GPU if there is one.

    Raises:
        ConfigError: a device that this machine or this torch does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return checked_device(name)


def checked_place(
    device: torch.device | str | int | torch.dtype | None, dtype: torch.dtype | None
) -> tuple[torch.device | None, torch.dtype | None]:
    """The arguments of a network's ``to``: device and dtype, or a dtype alone.

    Raises:
        ConfigError: a device that is not available, or a dtype that is not floating-point.
    """
    if isinstance(device, torch.dtype):
        device, dtype = None, device
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ConfigError(f"dtype is {shown(dtype)}; it must be one of torch's, as torch.bfloat16.")
    return None if device is None else checked_device(device), dtype


def check_memory(name: str, count: int, bytes_each: int, device: torch.device) -> None:
    """Refuses more samples than the device's memory holds.

    Raises:
        ConfigError: the sentence says how many there may be.
    """
    if device.type == "cuda":
        total = torch.cuda.mem_get_info(device)[1]
    else:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if count * bytes_each > total:
        raise ConfigError(
            f"{name} is {count}; so many samples need {count * bytes_each / 2**30:,.0f} GiB of memory, of which there "
            f"are {total / 2**30:,.0f}: ask for at most {total // bytes_each} at once, and for more with other seeds."
        )


def checked_path(name: str, path: Path | str) -> Path:
    """A path, which need not exist.

    Raises:
        ConfigError: not a path, or a name that the file system does not accept.
    """
    if not isinstance(path, str | os.PathLike) or not isinstance(os.fspath(path), str):
        raise ConfigError(f"{name} is {shown(path)}; it must be a path, as a text or a Path.")
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # too long, a zero byte, half a surrogate pair
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(
            f"{name} is {shown(path)}, which is no path ({why}); name another place."
        ) from error
    return Path(path)


FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_dense(name: str, tensor: Tensor) -> None:
    """Refuses sparse and nested tensors and those on the meta device.

    Raises:
        ConfigError: names the tensor and what it is.
    """
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        raise ConfigError(f"{name}: the tensor is {kind}; give a dense one.")
    if tensor.is_meta:
        raise ConfigError(
            f"{name}: the tensor is on the device meta, which holds no values; give one that has some."
        )


def check_floats(name: str, tensor: Tensor) -> None:
    """Refuses tensors that are not dense or whose dtype is not one of `FLOATS`.

    Raises:
        ConfigError: see `check_dense`, or the dtype.
    """
    check_dense(name, tensor)
    if tensor.dtype not in FLOATS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
        raise ConfigError(
            f"{name}: the dtype is {str(tensor.dtype).removeprefix('torch.')}; it must be one of {known}."
        )


def finite_vectors(values: Tensor) -> Tensor:
    """Which of the vectors (…, d) have a finite norm in float32, (…) bool."""
    return values.detach().float().square().sum(dim=-1).isfinite()


def output_file(name: str, path: Path | str) -> Path:
    """The path of an output file after a check that it can be written; links are resolved.

    Raises:
        ConfigError: a directory, a device, or a file that cannot be written.
    """
    path = Path(path)
    try:
        path = path.resolve() if path.is_symlink() else path
        if path.is_dir():
            raise ConfigError(f"{name}={path} is a directory; name a file in it.")
        if path.exists() and not path.is_file():
            raise ConfigError(f"{name}={path} is not a regular file; name another one.")
        check_folder(name, path.parent)
    except OSError as error:
        raise ConfigError(
            f"{name}={path} cannot be written ({error.strerror}); name another file."
        ) from error
    return path


def check_folder(name: str, folder: Path) -> None:
    """Refuses a folder in which no file can be created; the folder need not exist and is not created.

    Raises:
        ConfigError: with the reason.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ConfigError(
            f"{name}: nothing can be written in {existing} ({error.strerror}); name another place."
        ) from error
