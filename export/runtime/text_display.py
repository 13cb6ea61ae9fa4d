"""Texts as a terminal may show them, and as JSON may carry them: whatever a text holds, it stays data.

Imported by the package too: standard library only.
"""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CLOSED_PIPE = 141  # the exit code of a command that SIGPIPE ended: 128 + 13

# What a terminal obeys instead of showing it: C0 (escape, carriage return, …), DEL and C1; line and paragraph
# separators; embeddings, overrides and isolates of the bidirectional algorithm; and surrogates, which no encoding has.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def displayed(text: str) -> str:
    r"""The text on one line, with ``\x1b``, ``\n`` or ``\u202e`` in place of what a terminal would obey."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)


class _Shown(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = displayed(record.getMessage()), ()
        return True


_SHOWN = _Shown()


def get_logger(name: str) -> logging.Logger:
    """The logger of that name, which passes messages on as a terminal may show them: they name files and classes."""
    logger = logging.getLogger(name)
    logger.addFilter(_SHOWN)
    return logger


def list_item(text: str) -> str:
    """The text behind a bullet; its further lines are indented, so that none of them passes for another item."""
    return "• " + "\n  ".join(map(displayed, text.split("\n")))


def json_text(content: Any) -> str:
    r"""Indented JSON that keeps the letters of all scripts; what a terminal would obey stands as ``\u009b``."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return _OBEYED.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def print_json(content: Any) -> None:
    """Prints JSON that has the same content in every encoding of standard output."""
    text = json_text(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    print(text)


def typed(text: str) -> str:
    """A text of the command line, which is UTF-8 whatever the locale took its bytes for.

    No path: the locale finds a file by the name that it made of the bytes.
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


@contextmanager
def terminal_output() -> Iterator[None]:
    """Around a command: what the terminal's encoding lacks is printed as ``?``, and a closed pipe ends it quietly.

    Raises:
        SystemExit: with `CLOSED_PIPE`, where the reader of the output has gone (``| head -1``); with 2, where what was
            printed cannot be written, as to a full disk.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        if hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        yield
    except OSError as error:
        _end(error)
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            _end(error)


def _end(error: OSError) -> None:
    """Ends the command where its output has no place to go; any other error is raised again."""
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
        raise error
    # Python flushes once more at exit, and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        raise SystemExit(CLOSED_PIPE) from None
    print(f"error: {error.strerror}; free some, or send what is printed elsewhere.", file=sys.stderr)
    raise SystemExit(2) from None
