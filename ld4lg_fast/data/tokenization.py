"""Texts to token ids: training of a byte-level BPE, tokenization of a corpus, and its cache on disk."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.text_display import get_logger

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = get_logger(__name__)

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
_CACHE_FORMAT = 1
# Size of the chunks between which signals are handled.
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 8192, 2_000_000
# The trainer's time grows with the square of a word's bytes.
_LONGEST_TRAINED_WORD = 256
# Longer texts are cut before tokenization, if the cut part alone has more tokens than are kept.
_LONG_TEXT = 100_000

_LIMITS = threading.Lock()
T = TypeVar("T")


def train_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE (Radford et al. 2019) with BART's special ids: bos 0, pad 1, eos 2, unk 3.

    A text is encoded as ``<s> text </s>`` and decodes exactly to itself; a special token's name in a text is ordinary
    text. The vocabulary of a small corpus may be smaller than ``vocab_size``. For training, words of more than 256
    bytes are split, which bounds the time.

    Raises:
        ConfigError: ``vocab_size`` is too small for all bytes.
        DataError: there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    if vocab_size < _MIN_VOCAB:
        raise ConfigError(
            f"vocab_size {vocab_size} has no room for the 256 bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens: use {_MIN_VOCAB} or more"
        )
    texts = list(texts)
    if not any(texts):
        raise DataError("a tokenizer cannot be trained on an empty corpus: give it at least one text")
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.FixedLength(_LONGEST_TRAINED_WORD)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    _interruptible(lambda: tokenizer.train_from_iterator(texts, trainer, length=len(texts)))
    tokenizer.pre_tokenizer = words
    bos, pad, eos, unk = SPECIAL_TOKENS
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A {eos}",
        pair=f"{bos} $A {eos} {eos} $B {eos}",
        special_tokens=[(bos, 0), (eos, 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        pad_token=pad,
        eos_token=eos,
        unk_token=unk,
        clean_up_tokenization_spaces=False,
        split_special_tokens=True,
    )


class TokenizedTexts:
    """Token ids of a corpus in one flat int32 array; ``[i]`` is the list of ids of text i.

    ``offsets`` int64 (len + 1): text i is ``flat[offsets[i] : offsets[i + 1]]``. ``lengths`` int64 (len,) include
    special tokens. ``num_truncated`` texts were truncated.
    """

    def __init__(self, flat: np.ndarray, offsets: np.ndarray, num_truncated: int):
        self.flat, self.offsets, self.num_truncated = flat, offsets, num_truncated

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> list[int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        index %= len(self)
        return self.flat[self.offsets[index] : self.offsets[index + 1]].tolist()

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def tokenize_texts(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_len: int,
    cache_dir: str | os.PathLike | None = None,
) -> TokenizedTexts:
    """Tokenizes ``texts`` to at most ``max_len`` ids each, including special tokens, which truncation keeps.

    With ``cache_dir`` the result is cached there under a fingerprint of texts, tokenizer and ``max_len``; damaged files
    are rebuilt.

    Raises:
        ConfigError: ``max_len`` has no room for a token beside the special ones.
    """
    reserved = tokenizer.num_special_tokens_to_add()
    if max_len <= reserved:
        raise ConfigError(
            f"max_len {max_len} has no room beside {reserved} special tokens: use {reserved + 1} or more"
        )
    if cache_dir is None:
        return _tokenize(texts, tokenizer, max_len)
    fingerprint = _fingerprint(texts, tokenizer, max_len)
    path = Path(cache_dir) / f"tokens-{fingerprint[:32]}.safetensors"
    tokenized = _read_cache(path, fingerprint, len(texts))
    if tokenized is None:
        tokenized = _tokenize(texts, tokenizer, max_len)
        _write_cache(path, fingerprint, tokenized)
    return tokenized


def _interruptible(work: Callable[[], T]) -> T:
    """Runs long native work in a thread, so that signals are handled meanwhile.

    Exceptions of signal handlers are raised here; the thread is then abandoned.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    for error in errors:
        raise error
    return results[0]


def _tokenize(texts: Sequence[str], tokenizer: Any, max_len: int) -> TokenizedTexts:
    rows: list[np.ndarray] = []
    lengths: list[int] = []
    num_truncated = 0
    side, around = tokenizer.truncation_side, None
    for first, chunk in _chunks(_kept_end(text, max_len, side) for text in texts):
        ids = _token_ids(chunk, tokenizer)
        for i, row in enumerate(ids):
            if len(row) <= max_len and len(chunk[i]) < len(texts[first + i]):
                row = _token_ids([texts[first + i]], tokenizer)[0]
                ids[i] = row
            if len(row) > max_len:
                around = around or special_tokens_around(chunk[i], tokenizer)
                ids[i] = _truncated(row, max_len, side, *around)
                num_truncated += 1
        lengths += [len(row) for row in ids]
        rows.append(np.fromiter((token for row in ids for token in row), dtype=np.int32))
    flat = np.concatenate(rows) if rows else np.empty(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return TokenizedTexts(flat, offsets, num_truncated)


def _kept_end(text: str, max_len: int, side: str) -> str:
    """A long text cut at a space, on the side that truncation keeps, to more tokens than are kept."""
    size = max(_LONG_TEXT, 64 * max_len)
    if len(text) <= size:
        return text
    if side == "left":
        spaces = [text.find(sign, len(text) - size) for sign in (" ", "\n")]
        return text[min((space for space in spaces if space > 0), default=len(text) - size) :]
    space = max(text.rfind(sign, 0, size) for sign in (" ", "\n"))
    return text[: space if space > 0 else size]


def _chunks(texts: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The texts in chunks of a few seconds' work, each with the index of its first text."""
    chunk: list[str] = []
    first, size = 0, 0
    for text in texts:
        if chunk and (len(chunk) == _CHUNK_TEXTS or size + len(text) > _CHUNK_CHARACTERS):
            yield first, chunk
            first, chunk, size = first + len(chunk), [], 0
        chunk.append(text)
        size += len(text)
    if chunk:
        yield first, chunk


@contextmanager
def encoding(texts: Sequence[str]) -> Iterator[None]:
    """Context manager around a tokenizer's call that converts the library's errors to ``DataError``.

    These are bare ``Exception`` objects and Rust panics; all others, such as those of signal handlers, pass.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        others = f" or one of the {len(texts) - 1} texts after it" if len(texts) > 1 else ""
        raise DataError(
            f"The tokenizer cannot encode {shown(texts[0])}{others} ({reason}); restore the tokenizer's files, or "
            "leave the text out."
        ) from error


def _token_ids(texts: list[str], tokenizer: "PreTrainedTokenizerFast") -> list[list[int]]:
    """All ids of each text, without truncation.

    Truncation is a state of the tokenizer that threads share, so it is never enabled here; a setting from the
    tokenizer's file is disabled.

    Raises:
        DataError: see `encoding`.
    """
    backend = tokenizer.backend_tokenizer
    with _LIMITS:
        if backend.truncation is not None or backend.padding is not None:
            backend.no_truncation()
            backend.no_padding()

    def work() -> list[list[int]]:
        with encoding(texts):
            return tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]

    return _interruptible(work) if sum(map(len, texts)) > _LONG_TEXT else work()


def token_counts(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Number of tokens of each text, without special tokens.

    Raises:
        DataError: see `encoding`.
    """
    reserved = tokenizer.num_special_tokens_to_add()
    return [len(row) - reserved for _, chunk in _chunks(texts) for row in _token_ids(chunk, tokenizer)]


def special_tokens_around(text: str, tokenizer: "PreTrainedTokenizerFast") -> tuple[int, int]:
    """Number of special tokens that the tokenizer adds before and after a text."""
    with encoding([text]):
        mask = tokenizer([text], return_special_tokens_mask=True, verbose=False)["special_tokens_mask"][0]
    return mask.index(0), mask[::-1].index(0)


def _truncated(row: list[int], max_len: int, side: str, before: int, after: int) -> list[int]:
    """Ids of a text truncated as the tokenizer does: special tokens are kept."""
    if side == "left":
        return row[:before] + row[len(row) - (max_len - before) :]
    return row[: max_len - after] + row[len(row) - after :]


def _fingerprint(texts: Sequence[str], tokenizer: Any, max_len: int) -> str:
    """SHA-256 of texts, tokenizer and ``max_len``."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # State of earlier calls, which does not affect ours.
    rules["truncation"] = rules["padding"] = None
    header = [_CACHE_FORMAT, max_len, rules, tokenizer.split_special_tokens]
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for text in texts:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def _checksum(flat: np.ndarray, offsets: np.ndarray, num_truncated: str) -> str:
    digest = hashlib.sha256(num_truncated.encode())
    digest.update(np.ascontiguousarray(offsets).data)
    digest.update(np.ascontiguousarray(flat).data)
    return digest.hexdigest()


def _write_cache(path: Path, fingerprint: str, tokenized: TokenizedTexts) -> None:
    from safetensors.numpy import save

    num_truncated = str(tokenized.num_truncated)
    data = save(
        {"flat": tokenized.flat, "offsets": tokenized.offsets},
        metadata={
            "fingerprint": fingerprint,
            "checksum": _checksum(tokenized.flat, tokenized.offsets, num_truncated),
            "num_truncated": num_truncated,
        },
    )
    try:
        write_atomically(path, data)
    except CheckpointError as error:
        raise DataError(f"the token cache cannot be written to {path.parent}: {error}") from error


def _read_cache(path: Path, fingerprint: str, num_texts: int) -> TokenizedTexts | None:
    """The cached tokens, or None if they are missing or damaged."""
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            flat, offsets = file.get_tensor("flat"), file.get_tensor("offsets")
    except (SafetensorError, OSError) as error:
        logger.warning("The token cache %s is damaged and is rebuilt (%s).", path, error)
        return None
    num_truncated = metadata.get("num_truncated", "")
    wanted = (fingerprint, _checksum(flat, offsets, num_truncated), num_texts + 1)
    if (metadata.get("fingerprint"), metadata.get("checksum"), len(offsets)) != wanted:
        logger.warning("The token cache %s does not hold what its name says and is rebuilt.", path)
        return None
    return TokenizedTexts(flat, offsets, int(num_truncated))
