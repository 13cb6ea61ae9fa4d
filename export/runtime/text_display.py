"""Escapes control characters in texts for terminals and JSON. Shared with the package; standard library only."""

import errno
import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CLOSED_PIPE = 141  # exit code of a command that SIGPIPE ended: 128 + 13

# Characters that a terminal interprets: C0 (escape, carriage return, …), DEL and C1; line and paragraph separators;
# embeddings, overrides and isolates of the bidirectional algorithm; and surrogates, which no encoding has.
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def displayed(text: str) -> str:
    r"""The text on one line, with control characters escaped as ``\x1b``, ``\n`` or ``\u202e``."""
    return _OBEYED.sub(lambda found: repr(found[0])[1:-1], text)


class _Shown(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = displayed(record.getMessage()), ()
        return True


_SHOWN = _Shown()


def get_logger(name: str) -> logging.Logger:
    """The logger of that name; control characters in its messages are escaped by `displayed`."""
    logger = logging.getLogger(name)
    logger.addFilter(_SHOWN)
    return logger


def list_item(text: str) -> str:
    """The text after a bullet, with its further lines indented, so that none looks like another item."""
    return "• " + "\n  ".join(map(displayed, text.split("\n")))


def json_text(content: Any) -> str:
    r"""Indented JSON in which non-ASCII letters are kept and control characters are escaped as ``\u009b``."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    return _OBEYED.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def print_json(content: Any) -> None:
    """Prints JSON, in ASCII if the encoding of standard output lacks a character."""
    text = json_text(content)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    print(text)


def typed(text: str) -> str:
    """A text of the command line decoded as UTF-8 in any locale; not for paths, which need the locale's decoding."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text


@contextmanager
def terminal_output() -> Iterator[None]:
    """Context of a command: prints ``?`` for characters that the encoding lacks, and ends quietly on a closed pipe.

    Raises:
        SystemExit: with `CLOSED_PIPE` if the reader has closed the pipe (``| head -1``); with 2 if the output cannot be
            written, for example to a full disk.
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
    """Ends the command if its output cannot be written; any other error is raised again."""
    if error.filename is not None or error.errno not in (errno.EPIPE, errno.ENOSPC):
        raise error
    # Python flushes once more at exit, and would complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        raise SystemExit(CLOSED_PIPE) from None
    print(f"error: {error.strerror}; free some, or send what is printed elsewhere.", file=sys.stderr)
    raise SystemExit(2) from None
