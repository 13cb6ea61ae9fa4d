"""Bounds check of a Precompiled normalizer's table, which the library `tokenizers` reads unchecked.

A SentencePiece table has the size of a trie in bytes (32 bits, little endian), the trie, a double array of 32-bit units
in blocks of 256 (Yata et al., darts-clone), and the zero-terminated replacement texts. Every transition of the trie
must stay in it, and every result must be the start of a text.
"""

import base64
import binascii

import numpy as np

LONGEST_TEXT = 256  # bytes for one character of the original; Unicode's longest has 33
_BLOCK = 256
_LEAF, _HAS_LEAF = np.uint32(1 << 31), np.uint32(1 << 8)


def charsmap_complaint(value: object) -> str | None:
    """What is invalid in a ``precompiled_charsmap``, as the end of a sentence, or None."""
    try:
        table = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        return "it is no base64"
    size = int.from_bytes(table[:4], "little")
    if not 0 < size <= len(table) - 4 or size % (4 * _BLOCK):
        return f"its trie is said to have {size} bytes, but {max(len(table) - 4, 0)} follow in blocks of {4 * _BLOCK}"
    units, texts = np.frombuffer(table[4 : 4 + size], "<u4"), table[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        return "its texts are not UTF-8"
    if max(map(len, texts.split(b"\0"))) > LONGEST_TEXT:
        return f"one of its texts has more than {LONGEST_TEXT} bytes"
    return None if _stays_inside(units, texts) else "its trie leads out of it"


def _stays_inside(units: np.ndarray, texts: bytes) -> bool:
    """Whether all inner units point into the trie, and all leaves to the start of a character."""
    inner = np.flatnonzero(units & _LEAF == 0)
    unit = units[inner]
    target = inner ^ (
        (unit >> np.uint32(10)).astype(np.int64) << ((unit & np.uint32(1 << 9)) >> np.uint32(6))
    )
    if (target >= len(units)).any():
        return False
    results = units[target[unit & _HAS_LEAF != 0]] & ~_LEAF
    if len(results) and results.max() > len(texts):
        return False
    return all(index == len(texts) or texts[index] & 0xC0 != 0x80 for index in results.tolist())
