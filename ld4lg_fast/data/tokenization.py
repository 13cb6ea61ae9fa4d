"""Texts to token ids: a byte-level BPE of our own, and the tokenised corpus with its cache on disk."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ld4lg_fast.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_MIN_VOCAB = 256 + len(SPECIAL_TOKENS)
_CHUNK = 8192
_CACHE_FORMAT = 1


def train_bpe_tokenizer(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE (Radford et al. 2019) with BART's special ids: bos 0, pad 1, eos 2, unk 3.

    A text is encoded as ``<s> text </s>`` and decodes to exactly itself, whatever it contains; a special
    token's name in a text is ordinary text. Small corpora may end below ``vocab_size``.
    Raises ``ConfigError`` where ``vocab_size`` has no room for all bytes, ``DataError`` without any text.
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
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
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

    ``offsets`` int64 (len + 1): text i is ``flat[offsets[i] : offsets[i + 1]]``. ``lengths`` int64 (len,)
    counts special tokens too. ``num_truncated`` texts were cut to the length limit.
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
    """Tokenise ``texts`` to at most ``max_len`` ids each, special tokens included and kept when truncating.

    With ``cache_dir`` the result is kept there under a fingerprint of texts, tokenizer and ``max_len``. The
    file is written atomically and checked on loading; a damaged one is rebuilt.
    Raises ``ConfigError`` where ``max_len`` has no room for one token beside the special ones.
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


def _tokenize(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast", max_len: int) -> TokenizedTexts:
    rows: list[np.ndarray] = []
    lengths: list[int] = []
    num_truncated = 0
    for start in range(0, len(texts), _CHUNK):
        chunk = list(texts[start : start + _CHUNK])
        ids = tokenizer(chunk, return_attention_mask=False, verbose=False)["input_ids"]
        too_long = [i for i, row in enumerate(ids) if len(row) > max_len]
        if too_long:
            cut = tokenizer([chunk[i] for i in too_long], truncation=True, max_length=max_len)["input_ids"]
            for i, row in zip(too_long, cut, strict=True):
                ids[i] = row
            num_truncated += len(too_long)
            # Else the limit would be saved with the tokenizer.
            tokenizer.backend_tokenizer.no_truncation()
        lengths += [len(row) for row in ids]
        rows.append(np.fromiter((token for row in ids for token in row), dtype=np.int32))
    flat = np.concatenate(rows) if rows else np.empty(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    return TokenizedTexts(flat, offsets, num_truncated)


def _fingerprint(texts: Sequence[str], tokenizer: "PreTrainedTokenizerFast", max_len: int) -> str:
    """SHA-256 over everything that the token ids depend on."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left over from earlier calls, and overridden in ours.
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
    digest.update(np.ascontiguousarray(offsets))
    digest.update(np.ascontiguousarray(flat))
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
        path.parent.mkdir(parents=True, exist_ok=True)
        # The folder disappears with whatever an interrupted write left in it.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tokens-") as folder:
            unfinished = Path(folder) / path.name
            with open(unfinished, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
    except OSError as error:
        raise DataError(
            f"the token cache cannot be written to {path.parent} ({error.strerror}): "
            "choose a writable folder with free space"
        ) from error


def _read_cache(path: Path, fingerprint: str, num_texts: int) -> TokenizedTexts | None:
    """The cached tokens, or None where there are none or they are damaged."""
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
