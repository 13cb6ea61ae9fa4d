"""Lines of a text file: UTF-8, whatever ends them. Uses the standard library only."""

import re
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from .errors import RuntimeInputError

_PIECE = 2**20  # bytes
_MARKS = re.compile(r"\n\ufeff+")
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def counted(number: int, noun: str) -> str:
    """``1 row`` or ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


class Lines:
    """The lines of a file with their ends, read anew at each iteration."""

    def __init__(self, opened: Callable[[], BufferedReader], path: Path) -> None:
        self._opened, self._path = opened, path
        self._feeds = self._returns = 0

    def __iter__(self) -> Iterator[str]:
        with self._open() as file:
            number, start = 0, 0
            # In UTF-8 the byte of a line feed is never part of another character.
            for raw in file:
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    ends = raw[: error.start].replace(b"\r\n", b"\n").count(b"\r")
                    raise RuntimeInputError(
                        f"{self._path} is not UTF-8 text (byte {start + error.start}) in line {number + ends + 1}: "
                        "convert it, e.g. with iconv -t utf-8"
                    ) from error
                start += len(raw)
                for line in _LINE.findall(text) if "\r" in text else (text,):
                    number += 1
                    self._feeds += line.endswith("\n")
                    self._returns += line.endswith("\r")
                    # Concatenated files have byte order marks inside.
                    yield line.lstrip("\ufeff")

    def pieces(self) -> Iterator[str]:
        """The text in pieces of a megabyte, however long its lines are, with line feeds at their ends."""
        decoder, held, starts = getincrementaldecoder("utf-8")(), "", True
        with self._open() as file:
            while block := file.read(_PIECE):
                try:
                    text = held + decoder.decode(block)
                except UnicodeDecodeError:
                    break
                held = text[-1:] if text.endswith("\r") else ""  # a line feed may come next
                text = self._counted(text[: len(text) - len(held)])
                if "\ufeff" in text:
                    text = _MARKS.sub("\n", text.lstrip("\ufeff") if starts else text)
                if text:
                    starts = text.endswith("\n")
                    yield text
            else:
                if not decoder.getstate()[0]:
                    yield self._counted(held)
                    return
        for _ in self:  # which says where it is no UTF-8
            pass

    def _counted(self, text: str) -> str:
        """The text with line feeds at the ends of lines, which are counted."""
        self._feeds += text.count("\n")
        self._returns += text.count("\r") - text.count("\r\n")
        return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text

    @contextmanager
    def _open(self) -> Iterator[BufferedReader]:
        self._feeds = self._returns = 0
        with self._opened() as file:
            _refuse_utf_16(file.peek(4096)[:4096], self._path)
            yield file

    def notes(self) -> tuple[str, ...]:
        """A note about mixed line ends."""
        if not (self._feeds and self._returns):
            return ()
        return (f"a carriage return alone ends {counted(self._returns, 'line')}",)


def _refuse_utf_16(head: bytes, path: Path) -> None:
    """Detects UTF-16 by its byte order mark, or by zeros in every second byte."""
    zeros = max(head[0::2].count(0), head[1::2].count(0))
    marked = head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff"))
    if marked or (zeros >= 8 and 4 * zeros > len(head)):
        raise RuntimeInputError(
            f"{path} is UTF-16 text, or no text at all: save it as UTF-8, e.g. with iconv -f utf-16 -t utf-8"
        )
