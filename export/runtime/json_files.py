"""Files that others wrote, read with bounds: regular ones only, and JSON of bounded size and depth.

The standard library alone.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from .errors import RuntimeInputError
from .option_checks import shown

MOST_BYTES = 16 * 2**20
MOST_DEPTH = 32
REMEDY = "copy the folder again, or write it anew with ld4lg export"

_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+"')
_BRACKET = re.compile(r"[\[\]{}]")


def size_of(path: Path) -> int:
    """The size in bytes of a regular file, or of the one that a link leads to.

    Raises:
        RuntimeInputError: it is missing, or something else, as a directory or a pipe (which is never opened).
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
    """The content of a JSON file: at most `MOST_BYTES`, `MOST_DEPTH` deep, every key once, no NaN and no Infinity.

    Raises:
        RuntimeInputError: it is anything else.
    """
    if (size := size_of(path)) > MOST_BYTES:
        raise RuntimeInputError(
            f"{path} has {size} bytes, more than the {MOST_BYTES} that are read; {REMEDY}."
        )
    try:
        text = path.read_text(encoding="utf-8")
        if _depth(text) > MOST_DEPTH:
            raise ValueError(f"it nests more than {MOST_DEPTH} deep")
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_every_key_once)
    except (
        OSError,
        ValueError,
    ) as error:  # the latter of Unicode, of JSON, of endless numbers, and the above
        raise RuntimeInputError(f"{path} cannot be read as JSON ({error}); {REMEDY}.") from error


def _depth(text: str) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}, which is no number")


def _every_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"it holds the key {shown(name)} twice")
        content[name] = value
    return content
