"""Checks of a ``tokenizer.json``: known components with bounded parameters, and token ids of the vocabulary.

The library `tokenizers` trusts the file: it allocates the given sizes, a Replace may lengthen texts without bound, and
ids are not compared with the model. Shared by the package and the exported runtime.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .option_checks import shown
from .tokenizer_charsmap import charsmap_complaint

MOST_BYTES = 64 * 2**20  # mT5's has 16 MB
MOST_COMPONENTS = 64
MOST_TEXT, MOST_ENTRIES, MOST_NUMBER = 4096, 1000, 2**22
MOST_PIECES = 64  # of a template
MOST_ADDED_TOKENS = 10_000
MOST_GROWTH = 256  # factor by which all normalizers, or all decoders, may lengthen a text
MOST_REPETITIONS = 10_000  # of a regular expression: the product of the numbers in its braces

COMPONENTS: Mapping[str, tuple[str, ...]] = {
    "normalizer": (
        *("BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD"),
        *("NFKC", "NFKD", "Nmt", "Precompiled", "Prepend"),
        *("Replace", "Sequence", "Strip", "StripAccents"),
    ),
    "pre_tokenizer": (
        *("BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Digits", "FixedLength"),
        *("Metaspace", "Punctuation", "Sequence", "Split", "UnicodeScripts"),
        *("Whitespace", "WhitespaceSplit"),
    ),
    "post_processor": (
        *("BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"),
    ),
    "decoder": (
        *("BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse"),
        *("Metaspace", "Replace", "Sequence", "Strip", "WordPiece"),
    ),
}
MODELS = ("BPE", "Unigram", "WordLevel", "WordPiece")
_INNER = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


def check_tokenizer(content: Any) -> None:
    """Refuses components that could use unbounded memory or time, give random ids, or panic.

    Raises:
        ValueError: a clause with the key, the value and the rule.
    """
    content = _table(content, "the file")
    for part in COMPONENTS:
        found = list(_components(part, part, content.get(part)))
        _require(len(found) <= MOST_COMPONENTS, part, len(found), f"at most {MOST_COMPONENTS} components")
        growth = 1.0
        for key, component in found:
            growth *= _checked(part, key, component)
        if growth > MOST_GROWTH:
            raise ValueError(
                f"{part} makes {growth:.0f} characters of one in {len(found)} steps; it must make at most {MOST_GROWTH}"
            )
    added = _list(content.get("added_tokens") or [], "added_tokens")
    _require(
        len(added) <= MOST_ADDED_TOKENS, "added_tokens", len(added), f"at most {MOST_ADDED_TOKENS} tokens"
    )
    _check_model(_table(content.get("model"), "model"))


def check_ids(content: Mapping[str, Any], vocabulary: int) -> None:
    """Refuses token ids that the language model does not have.

    Raises:
        ValueError: a clause with the key, the id and the range.
    """
    for key, token in _ids(content):
        known = isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocabulary
        _require(known, key, token, f"an id of the language model's {vocabulary} tokens")


def _components(part: str, key: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The components of a part with their keys, those of a Sequence one by one."""
    if value is None:
        return
    kind = _table(value, key).get("type")
    known = isinstance(kind, str) and kind in COMPONENTS[part]
    _require(known, f"{key}.type", kind, f"one of {', '.join(COMPONENTS[part])}")
    if kind != "Sequence":
        yield key, value
        return
    name = f"{key}.{_INNER[part]}"
    for index, inner in enumerate(_list(value.get(_INNER[part]), name)):
        _require(inner is not None, f"{name}.{index}", inner, "a component")
        yield from _components(part, f"{name}.{index}", inner)


def _checked(part: str, key: str, component: Mapping[str, Any]) -> float:
    """Checks the parameters; returns the factor by which the component may lengthen a text."""
    kind = component["type"]
    if kind == "Precompiled":
        said = charsmap_complaint(component.get("precompiled_charsmap"))
        if said is not None:
            raise ValueError(f"{key}.precompiled_charsmap is damaged: {said}")
        return 1.0
    for name, value in component.items():
        _bounded(f"{key}.{name}", value)
    if kind == "Strip" and part == "decoder":
        stop = component.get("stop", 0)
        _require(stop == 0, f"{key}.stop", stop, "0, as the library fails at texts that are shorter")
    if kind == "FixedLength":
        length = component.get("length")
        _require(isinstance(length, int) and length > 0, f"{key}.length", length, "a whole number above 0")
    if kind == "TemplateProcessing":
        _check_template(key, component)
    if kind == "Prepend":
        return 1.0 + len(str(component.get("prepend", "")))
    pattern = component.get("pattern")
    if isinstance(pattern, dict) and "Regex" in pattern:
        _check_regex(f"{key}.pattern.Regex", pattern["Regex"])
    if kind != "Replace":
        return 1.0
    replaced = pattern.get("String") if isinstance(pattern, dict) else None
    _require(replaced != "", f"{key}.pattern.String", replaced, "a text that is not empty")
    content = component.get("content", "")
    if isinstance(replaced, str):
        return max(1.0, len(str(content)) / len(replaced))
    return 1.0 + len(str(content))  # a regular expression may also match between two characters


def _check_regex(key: str, value: Any) -> None:
    """Bounds the repetitions in braces, which the library expands: {1,3} of {1,100} are 300 copies."""
    repetitions = 1
    for digits in re.findall(r"\{\d*,?(\d+)\}|\{(\d+),\}", str(value), re.ASCII):
        repetitions *= max(1, int("".join(digits)))
    _require(
        repetitions <= MOST_REPETITIONS, key, value, f"of at most {MOST_REPETITIONS} repetitions in braces"
    )


def _check_template(key: str, component: Mapping[str, Any]) -> None:
    """Bounds templates and their sequences: A, and B in ``pair``."""
    for name, texts in (("single", {"A"}), ("pair", {"A", "B"})):
        pieces = _list(component.get(name), f"{key}.{name}")
        _require(
            len(pieces) <= MOST_PIECES, f"{key}.{name}", len(pieces), f"at most {MOST_PIECES} pieces long"
        )
        for index, piece in enumerate(pieces):
            if isinstance(piece, dict) and "Sequence" in piece:
                text = _table(piece["Sequence"], f"{key}.{name}.{index}").get("id")
                known = isinstance(text, str) and text in texts
                _require(known, f"{key}.{name}.{index}", text, " or ".join(sorted(texts)))
    for name, special in _table(component.get("special_tokens"), f"{key}.special_tokens").items():
        ids = _list(_table(special, f"{key}.special_tokens").get("ids"), f"{key}.special_tokens")
        _require(len(ids) <= MOST_PIECES, f"{key}.special_tokens", name, f"of at most {MOST_PIECES} ids")


def _check_model(model: Mapping[str, Any]) -> None:
    kind = model.get("type", "BPE")  # files of early versions do not say
    _require(isinstance(kind, str) and kind in MODELS, "model.type", kind, f"one of {', '.join(MODELS)}")
    _require(
        isinstance(model.get("vocab"), dict | list), "model.vocab", model.get("vocab"), "a table or a list"
    )
    dropout = model.get("dropout")
    _require(dropout in (None, 0), "model.dropout", dropout, "null, as token ids would be random")
    for name, value in model.items():
        if name not in ("vocab", "merges"):
            _bounded(f"model.{name}", value)


def _ids(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every token id in the file, with its key."""
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, dict):
        yield from ((f"model.vocab.{shown(token)}", number) for token, number in vocabulary.items())
    else:
        yield "model.vocab", len(vocabulary) - 1
    for token in content.get("added_tokens") or []:
        yield "added_tokens.id", _table(token, "added_tokens").get("id")
    for key, component in _components("post_processor", "post_processor", content.get("post_processor")):
        for name in ("sep", "cls"):
            if name in component:
                pair = _list(component[name], f"{key}.{name}")
                yield f"{key}.{name}", pair[-1] if pair else None
        for name, special in component.get("special_tokens", {}).items():
            yield from ((f"{key}.special_tokens.{shown(name)}", number) for number in special["ids"])


def _bounded(key: str, value: Any) -> None:
    """Bounds any other parameter: no long text or list, no large or negative number."""
    if isinstance(value, str):
        _require(len(value) <= MOST_TEXT, key, value, f"at most {MOST_TEXT} characters long")
    elif isinstance(value, int | float):
        _require(0 <= value <= MOST_NUMBER, key, value, f"a number from 0 to {MOST_NUMBER}")
    elif isinstance(value, list | dict):
        _require(len(value) <= MOST_ENTRIES, key, len(value), f"at most {MOST_ENTRIES} entries long")
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            _bounded(f"{key}.{name}"[:200], inner)


def _table(value: Any, key: str) -> Mapping[str, Any]:
    _require(isinstance(value, dict), key, value, "a table")
    return value


def _list(value: Any, key: str) -> list[Any]:
    _require(isinstance(value, list), key, value, "a list")
    return value


def _require(holds: bool, key: str, value: Any, rule: str) -> None:
    if not holds:
        raise ValueError(f"{key} is {shown(value)}; it must be {rule}")
