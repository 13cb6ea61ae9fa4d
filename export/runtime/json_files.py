"""Reads untrusted files: regular ones only, and JSON of bounded size and depth. Uses the standard library only."""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import RuntimeInputError
from .option_checks import shown

MOST_BYTES = 16 * 2**20
MOST_DEPTH = 32
REMEDY = "copy the folder again, or write it anew with ld4lg export"


def size_of(path: Path) -> int:
    """The size in bytes of a regular file, or of the one that a link leads to.

    Raises:
        RuntimeInputError: it is missing, or not a regular file, such as a directory or a pipe (which is never opened).
    """
    try:
        found = os.stat(path)
    except FileNotFoundError as error:
        raise RuntimeInputError(f"{path} is missing; {REMEDY}.") from error
    except (OSError, ValueError) as error:
        raise RuntimeInputError(f"{path} cannot be read ({error}); {REMEDY}.") from error
    if not stat.S_ISREG(found.st_mode):
        raise RuntimeInputError(f"{path} is not a regular file; {REMEDY}.")
    return found.st_size


def read_json(path: Path) -> Any:
    """The content of a JSON file of at most `MOST_BYTES`; see `parse`.

    Raises:
        RuntimeInputError: a larger file, or one that `parse` refuses.
    """
    if (size := size_of(path)) > MOST_BYTES:
        raise RuntimeInputError(
            f"{path} has {size} bytes, more than the {MOST_BYTES} that are read; {REMEDY}."
        )
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RuntimeInputError(f"{path} cannot be read as JSON ({error}); {REMEDY}.") from error


def parse(text: str) -> Any:
    """Parses JSON with finite numbers, without duplicate keys, and at most `MOST_DEPTH` deep.

    Raises:
        ValueError: anything else.
    """
    try:
        content = json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=every_key_once
        )
    except RecursionError:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep") from None
    waiting = [content]
    for _ in range(MOST_DEPTH + 1):
        waiting = [inner for value in waiting for inner in _inside(value)]
    if waiting:
        raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
    return content


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"it holds {shown(digits)}, which is no finite number")
    return number


def every_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An ``object_pairs_hook`` that refuses duplicate keys, of which Python would keep the last.

    Raises:
        ValueError: a duplicate key.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"it holds the key {shown(twice)} twice")
    return content
