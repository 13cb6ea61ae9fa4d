"""Texts to token ids: training of a byte-level BPE, and tokenization of a corpus."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ld4lg_fast.data.token_cache import TokenCache, TokenizedTexts, token_fingerprint
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.option_checks import shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
SHARD_TEXTS = 2**18  # of a file of the cache
# Size of the chunks between which signals are handled.
_CHUNK_TEXTS, _CHUNK_CHARACTERS = 8192, 2_000_000
_MOST_TRAINED_CHARACTERS = 50_000_000
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
    bytes are split, which bounds the time. Of more than 50 million characters it is trained on every n-th text.

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
    texts = texts[:: 1 + sum(map(len, texts)) // _MOST_TRAINED_CHARACTERS]
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


def tokenize_texts(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    max_len: int,
    cache_dir: str | os.PathLike | None = None,
) -> TokenizedTexts:
    """Tokenizes ``texts`` to at most ``max_len`` ids each, including special tokens, which truncation keeps.

    With ``cache_dir`` the result is cached there under a fingerprint of texts, tokenizer and ``max_len`` and
    memory-mapped, in shards of `SHARD_TEXTS`: an interrupted call goes on after those that are finished. Damaged files
    are rebuilt.

    Raises:
        ConfigError: ``max_len`` has no room for a token beside the special ones.
        DataError: a text cannot be encoded, or the cache cannot be written.
    """
    reserved = tokenizer.num_special_tokens_to_add()
    if max_len <= reserved:
        raise ConfigError(
            f"max_len {max_len} has no room beside {reserved} special tokens: use {reserved + 1} or more"
        )
    if cache_dir is None:
        return _tokenize(texts, tokenizer, max_len)
    fingerprint = token_fingerprint(texts, tokenizer, max_len)
    starts = range(0, max(1, len(texts)), SHARD_TEXTS)
    shards = []
    for number, start in enumerate(starts):
        cache = TokenCache(Path(cache_dir), fingerprint, number, len(starts))
        count = min(SHARD_TEXTS, len(texts) - start)
        shard = cache.read(count)
        if shard is None:
            shard = _tokenize(texts[start : start + count], tokenizer, max_len)
            cache.write(shard)
            shard = cache.read(count) or shard  # memory-mapped
        shards.append(shard)
    return TokenizedTexts.of_shards(shards)


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
    parts: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    num_truncated = 0
    side, around = tokenizer.truncation_side, None
    for chunk in _chunks(texts):
        cut = [_kept_end(text, max_len, side) for text in chunk]
        ids = _token_ids(cut, tokenizer)
        for i, row in enumerate(ids):
            if len(row) <= max_len and len(cut[i]) < len(chunk[i]):
                row = _token_ids([chunk[i]], tokenizer)[0]
                ids[i] = row
            if len(row) > max_len:
                around = around or special_tokens_around(cut[i], tokenizer)
                ids[i] = _truncated(row, max_len, side, *around)
                num_truncated += 1
        lengths.append(np.fromiter(map(len, ids), dtype=np.int64, count=len(ids)))
        parts.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths[-1].sum())))
    flat = np.concatenate([np.empty(0, np.int32), *parts])
    if flat.max(initial=0) < 2**16:
        flat = flat.astype(np.uint16)
    offsets = np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()
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
        if backend.encode_special_tokens != tokenizer.split_special_tokens:
            backend.encode_special_tokens = tokenizer.split_special_tokens

    def work() -> list[list[int]]:
        with encoding(texts):
            # On all cores. A call of ``tokenizer`` would make objects that are not used, as of every token's place.
            return [encoded.ids for encoded in backend.encode_batch_fast(texts)]

    return _interruptible(work) if sum(map(len, texts)) > _LONG_TEXT else work()


def token_counts(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast") -> list[int]:
    """Number of tokens of each text, without special tokens.

    Raises:
        DataError: see `encoding`.
    """
    reserved = tokenizer.num_special_tokens_to_add()
    return [len(row) - reserved for chunk in _chunks(texts) for row in _token_ids(chunk, tokenizer)]


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
