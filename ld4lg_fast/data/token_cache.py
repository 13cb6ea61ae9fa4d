"""Token ids of a corpus in memory-mapped files, under a fingerprint of what they were made from."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.data.texts import Texts
from ld4lg_fast.errors import CheckpointError, DataError
from ld4lg_fast.export.runtime.text_display import get_logger

logger = get_logger(__name__)

_CACHE_FORMAT = 2
_HASHED_TEXTS = 4096  # texts that are hashed by one call


class TokenizedTexts:
    """Token ids of a corpus in one flat array (uint16 or int32); ``[i]`` is the list of ids of text i.

    ``offsets`` int64 (len + 1): text i is ``flat[offsets[i] : offsets[i + 1]]``. ``lengths`` int32 (len,) include
    special tokens. ``num_truncated`` texts were truncated. `of_shards` has ids and offsets in several arrays, which may
    be memory-mapped; ``flat`` and ``offsets`` are then copies.
    """

    def __init__(self, flat: np.ndarray, offsets: np.ndarray, num_truncated: int):
        self.shards, self.num_truncated = [(flat, offsets)], num_truncated

    @classmethod
    def of_shards(cls, shards: Sequence["TokenizedTexts"]) -> "TokenizedTexts":
        """The texts of all shards, each of which but the last one has as many as the first."""
        whole = cls(*shards[0].shards[0], sum(shard.num_truncated for shard in shards))
        whole.shards = [part for shard in shards for part in shard.shards]
        return whole

    def __len__(self) -> int:
        return sum(len(offsets) - 1 for _, offsets in self.shards)

    def __getitem__(self, index: int) -> list[int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        number, place = divmod(index % len(self), len(self.shards[0][1]) - 1)
        flat, offsets = self.shards[number]
        return flat[offsets[place] : offsets[place + 1]].tolist()

    @property
    def flat(self) -> np.ndarray:
        return (
            self.shards[0][0] if len(self.shards) == 1 else np.concatenate([flat for flat, _ in self.shards])
        )

    @property
    def offsets(self) -> np.ndarray:
        if len(self.shards) == 1:
            return self.shards[0][1]
        return np.concatenate([np.zeros(1, np.int64), *(np.diff(part) for _, part in self.shards)]).cumsum()

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.concatenate([np.diff(offsets).astype(np.int32) for _, offsets in self.shards])

    def hash_into(self, digest: "hashlib._Hash") -> None:
        """Updates a hash with all ids as int32, then with the offsets."""
        for flat, _ in self.shards:
            digest.update(flat.astype(np.int32, copy=False).data)
        digest.update(np.zeros(1, np.int64).data)
        before = 0
        for _, offsets in self.shards:
            digest.update((offsets[1:] + before).data)
            before += offsets[-1]


def token_fingerprint(texts: Sequence[str], tokenizer: Any, max_len: int) -> str:
    """SHA-256 of texts, tokenizer and ``max_len``; texts of a kept corpus are not read (`Texts.key`)."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # State of earlier calls, which does not affect ours.
    rules["truncation"] = rules["padding"] = None
    header = [_CACHE_FORMAT, max_len, rules, tokenizer.split_special_tokens]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    if isinstance(texts, Texts) and texts.key:
        digest.update(texts.key.encode())
        return digest.hexdigest()
    rest = (text.encode() for text in texts)
    while chunk := list(islice(rest, _HASHED_TEXTS)):
        digest.update(b"".join(len(text).to_bytes(8, "little") + text for text in chunk))
    return digest.hexdigest()


class TokenCache:
    """The file of shard ``number`` of ``num_shards`` of tokens with a fingerprint."""

    def __init__(self, directory: Path, fingerprint: str, number: int, num_shards: int) -> None:
        which = "" if num_shards == 1 else f"-{number:05}-of-{num_shards:05}"
        self.path = directory / f"tokens-{fingerprint[:32]}{which}.safetensors"
        self.fingerprint = f"{fingerprint}{which}"

    def write(self, tokens: TokenizedTexts) -> None:
        """Writes the file atomically.

        Raises:
            DataError: the disk is full or the folder cannot be written to.
        """
        from safetensors.numpy import save

        num_truncated = str(tokens.num_truncated)
        data = save(
            {"flat": tokens.flat, "offsets": tokens.offsets},
            metadata={
                "fingerprint": self.fingerprint,
                "checksum": _checksum(tokens.flat, tokens.offsets, num_truncated),
                "num_truncated": num_truncated,
            },
        )
        try:
            write_atomically(self.path, data)
        except CheckpointError as error:
            raise DataError(f"the token cache cannot be written to {self.path.parent}: {error}") from error

    def read(self, num_texts: int) -> TokenizedTexts | None:
        """The tokens, memory-mapped; None if they are missing or damaged."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                flat, offsets = (file.get_tensor(name).numpy() for name in ("flat", "offsets"))
        except (SafetensorError, OSError) as error:
            logger.warning("The token cache %s is damaged and is rebuilt (%s).", self.path, error)
            return None
        num_truncated = metadata.get("num_truncated", "")
        wanted = (self.fingerprint, _checksum(flat, offsets, num_truncated), num_texts + 1)
        if (metadata.get("fingerprint"), metadata.get("checksum"), len(offsets)) != wanted:
            logger.warning("The token cache %s does not hold what its name says and is rebuilt.", self.path)
            return None
        return TokenizedTexts(flat, offsets, int(num_truncated))


def _checksum(flat: np.ndarray, offsets: np.ndarray, num_truncated: str) -> str:
    digest = hashlib.sha256(num_truncated.encode())
    digest.update(np.ascontiguousarray(offsets).data)
    digest.update(np.ascontiguousarray(flat).data)
    return digest.hexdigest()
