"""Loads tokenizers from folders, after checks of their files and of the class that they name.

transformers' ``AutoTokenizer`` accepts any of its classes as ``tokenizer_class``, including models, which would load
weights and kernels from the folder.
"""

import re
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name
from transformers.utils import cached_file

from ld4lg_fast.checkpoints.files import read_json, read_text
from ld4lg_fast.checkpoints.schemas import validated
from ld4lg_fast.checkpoints.schemas_transformers import SpecialTokensFile, TokenizerFile
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.export.runtime.tokenizer_checks import check_ids, check_tokenizer

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
_GENERAL = ("TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "PythonBackend")
# It runs external word tokenizers with options from the folder.
_RUNS_PROGRAMS = ("BertJapaneseTokenizer",)


class MissingTokenizer(ValueError):
    """A pretrained model has no tokenizer; the message is a clause."""


def read_tokenizer(folder: Path, vocabulary: int | None = None) -> PreTrainedTokenizerBase:
    """Loads a fast tokenizer that ``save_pretrained`` wrote.

    Args:
        vocabulary: the language model's number of tokens, if there is one.

    Raises:
        CheckpointError: a file is missing or damaged, names code, or has ids outside of the vocabulary.
    """
    path = folder / CONFIG
    name = validated(TokenizerFile, read_json(path, "a tokenizer"), path).tokenizer_class
    for file in sorted(folder.glob("*.json")):
        read_json(file, "a tokenizer") if file.name != "vocab.json" else read_text(file)
    special = folder / "special_tokens_map.json"
    if special.exists():
        validated(SpecialTokensFile, read_json(special, "a tokenizer"), special)
    content = _checked_content(folder / FILE)
    try:
        check_class(name, PreTrainedTokenizerFast)
        if vocabulary is not None:
            check_ids(content, vocabulary)
    except ValueError as error:
        raise CheckpointError(
            f"The tokenizer in {folder} is not read: {error}; restore its files from where the run came from."
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, config=PreTrainedConfig(), trust_remote_code=False, local_files_only=True
        )
        tokenizer.encode("a b")
        tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    except BaseException as error:  # Rust panics are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise CheckpointError(f"The tokenizer in {folder} cannot be loaded: {first_line(error)}.") from error
    return tokenizer


def load_tokenizer(folder: Path, lm: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The same for the tokenizer of the language model ``lm``.

    Raises:
        CheckpointError: a file is missing or damaged, names code, or belongs to another model.
    """
    vocabulary = lm.config.get_text_config(decoder=True).vocab_size
    tokenizer = read_tokenizer(folder, vocabulary)
    for name in ("pad_token_id", "eos_token_id"):
        if getattr(tokenizer, name) is None:
            raise CheckpointError(
                f"The tokenizer in {folder} has no {name.removesuffix('_id')}; restore its files."
            )
    if (highest := _highest_id(tokenizer)) >= vocabulary:
        raise CheckpointError(
            f"The tokenizer in {folder} has the token {highest} but its language model {vocabulary} tokens; they "
            "belong to different runs."
        )
    return tokenizer


def choose_tokenizer(
    place: str, config: PreTrainedConfig, vocabulary: int, trust_remote_code: bool = False, **options: Any
) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained model, by folder or hub name.

    Args:
        config: the model's config. vocabulary: its number of tokens. options: arguments of ``from_pretrained``.
        trust_remote_code: whether Python code beside the tokenizer is executed.

    Raises:
        OSError: there is no tokenizer.
        ValueError: it names a class that is no tokenizer, its tokenizer.json is invalid, or it is another model's.
    """
    named = get_tokenizer_config(place, **options).get("tokenizer_class")
    named = getattr(config, "tokenizer_class", None) if named is None else named
    if named is not None:
        check_class(named, PreTrainedTokenizerBase)
    where: dict[str, Any] = {key: options[key] for key in ("local_files_only", "revision") if key in options}
    found = cached_file(place, FILE, _raise_exceptions_for_missing_entries=False, **where)
    content = None
    if found is not None and "gguf_file" not in options:
        content = _checked_content(Path(found))
    if found is None and config.model_type == "marian":
        raise MissingTokenizer("Marian's source.spm is read by Python code alone, and a fast one is needed")
    if found is None and named is None and "gguf_file" not in options and not _has_vocabulary(place, where):
        raise MissingTokenizer(f"there is no {FILE} and no {CONFIG}")
    tokenizer = AutoTokenizer.from_pretrained(
        place, config=config, trust_remote_code=trust_remote_code, **options
    )
    if _highest_id(tokenizer) >= vocabulary:
        raise ValueError(
            f"its tokenizer is that of another model: it has the token {_highest_id(tokenizer)}, and the model "
            f"{vocabulary} embeddings"
        )
    if content is not None:
        check_ids(content, vocabulary)
    return tokenizer


def _has_vocabulary(place: str, where: dict[str, Any]) -> bool:
    """Whether one of the files is there that older tokenizers are made from."""
    names = (
        "vocab.json",
        "vocab.txt",
        "spiece.model",
        "tokenizer.model",
        "sentencepiece.bpe.model",
        "source.spm",
    )
    found = (cached_file(place, name, _raise_exceptions_for_missing_entries=False, **where) for name in names)
    return any(file is not None for file in found)


def check_class(name: object, base: type) -> None:
    """Checks that a ``tokenizer_class`` is a ``base``; names that transformers does not know are allowed.

    Raises:
        ValueError: a clause that names the class.
    """
    if name in _GENERAL:
        return
    found: object = None
    if isinstance(name, str) and re.fullmatch(r"\w{1,100}Tokenizer(Fast)?", name, re.ASCII):
        found = (
            tokenizer_class_from_name(name.removesuffix("Fast")) or tokenizer_class_from_name(name) or base
        )
    if name in _RUNS_PROGRAMS or not isinstance(found, type) or not issubclass(found, base):
        kind = "fast tokenizer" if base is PreTrainedTokenizerFast else "tokenizer"
        raise ValueError(
            f"{CONFIG} has the tokenizer_class {shown(name)}, which is no {kind} of transformers"
        )


def _highest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The highest token id of the tokenizer."""
    return max(tokenizer.get_vocab().values(), default=-1)


def first_line(error: BaseException) -> str:
    """First line of a library's error message, shortened."""
    lines: list[str] = str(error).strip().splitlines()
    text: Any = lines[0] if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def _checked_content(path: Path) -> dict[str, Any]:
    content = read_json(path, "a tokenizer")
    try:
        check_tokenizer(content)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not read: {error}; restore it from where the run came from."
        ) from error
    return content
