"""Texts to token ids: training of a byte-level BPE, and tokenization of a corpus."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ld4lg_fast.data.token_cache import TokenCache, TokenizedTexts, token_fingerprint
from ld4lg_fast.data.word_tokens import WordTokens
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.option_checks import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
SHARD_TEXTS = 2**18  # of a file of the cache
# Size of the chunks between which signals are handled.
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 1024, 2_000_000
TRAINED_CHARACTERS = 10_000_000
# The trainer's time grows with the square of a word's bytes.
_LONGEST_TRAINED_WORD = 256
# Longer texts are cut before tokenization, if the cut part alone has more tokens than are kept.
_LONG_TEXT = 100_000

_LIMITS = threading.Lock()
T = TypeVar("T")


def train_bpe_tokenizer(
    texts: Iterable[str], vocab_size: int, characters: int | None = TRAINED_CHARACTERS
) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE (Radford et al. 2019) with BART's special ids: bos 0, pad 1, eos 2, unk 3.

    A text is encoded as ``<s> text </s>`` and decodes exactly to itself; a special token's name in a text is ordinary
    text. The vocabulary of a small corpus may be smaller than ``vocab_size``. For training, words of more than 256
    bytes are split, which bounds the time.

    Args:
        characters: of texts with more it is trained on every n-th; None: on all.

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
    texts = texts if isinstance(texts, Sequence) else list(texts)
    if not any(texts):
        raise DataError("a tokenizer cannot be trained on an empty corpus: give it at least one text")
    if characters is not None:
        texts = texts[:: -(-sum(map(len, texts)) // characters)]
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
    _started(lambda: tokenizer.train_from_iterator(texts, trainer, length=len(texts)))()
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


def tokenize_texts(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_len: int,
    cache_dir: str | os.PathLike | None = None,
) -> TokenizedTexts:
    """Tokenizes ``texts`` to at most ``max_len`` ids each, including special tokens, which truncation keeps.

    With ``cache_dir`` the result is cached there, see `CachedTokens`.

    Raises:
        ConfigError: ``max_len`` has no room for a token beside the special ones.
        DataError: a text cannot be encoded, or the cache cannot be written.
    """
    if cache_dir is not None:
        return CachedTokens(texts, tokenizer, max_len, Path(cache_dir)).open()
    _check_room(max_len, tokenizer)
    return _tokenize(texts, tokenizer, max_len)


def _check_room(max_len: int, tokenizer: "PreTrainedTokenizerBase") -> None:
    reserved = tokenizer.num_special_tokens_to_add()
    if max_len <= reserved:
        raise ConfigError(
            f"max_len {max_len} has no room beside {reserved} special tokens: use {reserved + 1} or more"
        )


class CachedTokens:
    """Tokens of texts in files, under a fingerprint of texts, tokenizer and ``max_len``, and memory-mapped.

    They are in shards of `SHARD_TEXTS`, which several processes may share out, and whoever is interrupted goes on after
    those that are finished. Damaged files are rebuilt. Raises as `tokenize_texts`.
    """

    def __init__(
        self, texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", max_len: int, directory: Path
    ) -> None:
        _check_room(max_len, tokenizer)
        self.texts, self.tokenizer, self.max_len = texts, tokenizer, max_len
        fingerprint = token_fingerprint(texts, tokenizer, max_len)
        self.starts = range(0, max(1, len(texts)), SHARD_TEXTS)
        self._files = [
            TokenCache(directory, fingerprint, number, len(self.starts)) for number in range(len(self.starts))
        ]
        self._opened: dict[int, TokenizedTexts] = {}

    def encode(self, starts: Iterable[int]) -> None:
        """Opens the shards that begin with the texts ``starts``, and makes those that are missing."""
        for start in starts:
            file, count = self._files[start // SHARD_TEXTS], min(SHARD_TEXTS, len(self.texts) - start)
            shard = self._opened.get(start) or file.read(count)
            if shard is None:
                shard = _tokenize(self.texts[start : start + count], self.tokenizer, self.max_len)
                file.write(shard)
                shard = file.read(count) or shard  # memory-mapped
            self._opened[start] = shard

    def open(self) -> TokenizedTexts:
        """The tokens of all texts."""
        self.encode(self.starts)
        return TokenizedTexts.of_shards([self._opened[start] for start in self.starts])


def _started(work: Callable[[], T]) -> Callable[[], T]:
    """Starts long native work in a thread, so that signals are handled meanwhile; call the result to wait for it.

    Exceptions of signal handlers are raised there; the thread is then abandoned. Threads other than the main one, which
    handle no signals, do the work at once.
    """
    if threading.current_thread() is not threading.main_thread():
        done = work()
        return lambda: done
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> T:
        while thread.is_alive():
            thread.join(0.2)
        for error in errors:
            raise error
        return results[0]

    return result


def _tokenize(texts: Sequence[str], tokenizer: Any, max_len: int) -> TokenizedTexts:
    by_words = len(texts) > _CHUNK_TEXTS and WordTokens.suit(tokenizer)
    chunks = _tokens_by_words if by_words else _tokens_by_texts
    parts: list[np.ndarray] = [np.empty(0, np.uint16)]
    lengths, num_truncated = [0], 0
    for flat, counts, truncated in chunks(texts, tokenizer, max_len):
        parts.append(flat.astype(np.uint16) if flat.max(initial=0) < 2**16 else flat)
        lengths += counts
        num_truncated += truncated
    offsets = np.array(lengths, np.int64).cumsum()
    return TokenizedTexts(np.concatenate(parts), offsets, num_truncated)


# Ids of some texts one after the other, int32; the number of those of each; how many texts were truncated.
Chunk = tuple[np.ndarray, list[int], int]


def _tokens_by_words(texts: Sequence[str], tokenizer: Any, max_len: int) -> Iterator[Chunk]:
    """The same as `_tokens_by_texts` in less time, for tokenizers that suit `WordTokens`."""
    words = WordTokens(tokenizer, partial(_encodings, tokenizer=tokenizer, special_tokens=False))
    around = np.array(_encodings([""], tokenizer)[0].ids, np.int32)
    place = special_tokens_around("a", tokenizer)[0]
    before, after = around[:place].tobytes(), around[place:].tobytes()
    room = 4 * (max_len - len(around))
    for chunk in _chunks(texts):
        rows = words.ids(chunk)
        if rows is None:
            yield from _tokens_by_texts(chunk, tokenizer, max_len)
            continue
        kept = [ids[-room:] if tokenizer.truncation_side == "left" else ids[:room] for ids in rows]
        flat = np.frombuffer(b"".join(chain.from_iterable((before, ids, after) for ids in kept)), np.int32)
        yield flat, [len(ids) // 4 + len(around) for ids in kept], sum(len(ids) > room for ids in rows)


def _tokens_by_texts(texts: Sequence[str], tokenizer: Any, max_len: int) -> Iterator[Chunk]:
    side, around = tokenizer.truncation_side, None
    for chunk, cut, encodings in _encoded_ahead(texts, tokenizer, max_len):
        rows, num_truncated = [], 0
        for whole, text, encoded in zip(chunk, cut, encodings, strict=True):
            if len(encoded) <= max_len and len(text) < len(whole):
                [encoded] = _encodings([whole], tokenizer)
            row = encoded.ids
            if len(row) > max_len:
                around = around or special_tokens_around(text, tokenizer)
                row = _truncated(row, max_len, side, *around)
                num_truncated += 1
            rows.append(np.array(row, np.int32))
        yield np.concatenate([np.empty(0, np.int32), *rows]), list(map(len, rows)), num_truncated


def _encoded_ahead(
    texts: Sequence[str], tokenizer: Any, max_len: int
) -> Iterator[tuple[list[str], list[str], list]]:
    """Chunks of the texts, the ends of them that are kept, and their encodings; the next chunk is encoded meanwhile."""
    before = None
    for chunk in _chunks(texts):
        cut = [_kept_end(text, max_len, tokenizer.truncation_side) for text in chunk]
        encode = partial(_encodings, cut, tokenizer)
        encoded = _started(encode) if sum(map(len, cut)) > _LONG_TEXT else encode
        if before is not None:
            yield *before[:2], before[2]()
        before = chunk, cut, encoded
    if before is not None:
        yield *before[:2], before[2]()


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


def _chunks(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in chunks of a few seconds' work."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        if chunk and (len(chunk) == _CHUNK_TEXTS or size + len(text) > _CHUNK_CHARACTERS):
            yield chunk
            chunk, size = [], 0
        chunk.append(text)
        size += len(text)
    if chunk:
        yield chunk


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


def _encodings(texts: list[str], tokenizer: "PreTrainedTokenizerFast", special_tokens: bool = True) -> list:
    """``tokenizers.Encoding`` of each text, without truncation.

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
        if backend.encode_special_tokens != tokenizer.split_special_tokens:
            backend.encode_special_tokens = tokenizer.split_special_tokens
    with encoding(texts):
        # On all cores. A call of ``tokenizer`` would make objects that are not used, as of every token's place.
        return backend.encode_batch_fast(texts, add_special_tokens=special_tokens)


def token_counts(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Number of tokens of each text, without special tokens.

    Raises:
        DataError: see `encoding`.
    """
    reserved = tokenizer.num_special_tokens_to_add()
    return [
        len(encoded) - reserved
        for chunk in _chunks(texts)
        for encoded in _started(partial(_encodings, chunk, tokenizer))()
    ]


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
