"""Rules of option values; a violation gives one sentence with the option, its value and the rule.

Shared by the package and the exported runtime, which raise their own exceptions. Uses the standard library only.

>>> complaint("temperature", float("nan"))
'temperature is nan; it must be a finite number from 0.000001 to 1000000.'
"""

import difflib
import reprlib
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

MOST = 2**31 - 1  # of counts without another bound
# Beams, or decodes of one latent, that a file may set, as their cost is quadratic.
MOST_IN_A_FILE = 64

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 6


class Rule(Protocol):
    """Allowed values of an option: a check, and a description (``str``)."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class WholeNumber:
    """An integer (Python, NumPy, PyTorch) from ``least`` to ``most``; not True, not 2.0."""

    least: int = 1
    most: int = MOST

    def allows(self, value: Any) -> bool:
        value = plain(value)
        return isinstance(value, int) and not isinstance(value, bool) and self.least <= value <= self.most

    def __str__(self) -> str:
        return f"a whole number from {_bound(self.least)} to {_bound(self.most)}"


@dataclass(frozen=True)
class Number:
    """A finite number (Python, NumPy, PyTorch) from ``least`` to ``most``; ``above`` excludes ``least``."""

    least: float
    most: float
    above: bool = False

    def allows(self, value: Any) -> bool:
        value = plain(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
            return False
        return (self.least < value if self.above else self.least <= value) and value <= self.most

    def __str__(self) -> str:
        low, high = _bound(self.least), _bound(self.most)
        return f"a finite number {f'above {low} and at most' if self.above else f'from {low} to'} {high}"


@dataclass(frozen=True)
class Choice:
    """One of several names."""

    names: Collection[str]

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value in self.names

    def __str__(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True)
class Switch:
    """True or False, not a number."""

    def allows(self, value: Any) -> bool:
        return isinstance(plain(value), bool)

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True)
class Text:
    """A string without lone surrogates, which UTF-8 cannot encode."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)

    def __str__(self) -> str:
        return "a text"


@dataclass(frozen=True)
class Function:
    """A callable."""

    def allows(self, value: Any) -> bool:
        return callable(value)

    def __str__(self) -> str:
        return "a function"


@dataclass(frozen=True)
class Interval:
    """Two finite numbers, the first not above the second."""

    least: float = 0.0
    most: float = 1.0

    def allows(self, value: Any) -> bool:
        number = Number(self.least, self.most)
        ends = elements(value)
        return ends is not None and len(ends) == 2 and all(map(number.allows, ends)) and ends[0] <= ends[1]

    def __str__(self) -> str:
        return f"two numbers (first, second) with {self.least:g} <= first <= second <= {self.most:g}"


@dataclass(frozen=True)
class EarlyStopping:
    """When a beam search ends."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, bool) or (isinstance(value, str) and value == "never")

    def __str__(self) -> str:
        return "true, false or never"


SAMPLE_ID = WholeNumber(0, 2**63 - 1)

OPTIONS: Mapping[str, Rule] = {
    "num_samples": WholeNumber(),
    "max_new_tokens": WholeNumber(1, 2**20),
    "batch_size": WholeNumber(),
    "seed": WholeNumber(0, 2**64 - 1),
    # More steps fill the memory with their table and do not change samples.
    "num_inference_steps": WholeNumber(1, 100_000),
    "guidance_scale": Number(-1000, 1000),
    "guidance_interval": Interval(),
    "strength": Number(0, 1, above=True),
    "eta": Number(0, 1),
    "max_length": WholeNumber(2),
    "min_length": WholeNumber(0),
    "num_beams": WholeNumber(1, 256),
    "no_repeat_ngram_size": WholeNumber(0),
    "repetition_penalty": Number(1e-6, 1e6),
    "top_p": Number(0, 1, above=True),
    "temperature": Number(1e-6, 1e6),
    "top_k": WholeNumber(0),
    "length_penalty": Number(-10, 10),
    "early_stopping": EarlyStopping(),
    "num_decodes": WholeNumber(1, 256),
    "num_candidates": WholeNumber(1, 1000),
    "threads": WholeNumber(1, 10_000),
}
"""Rules of the options that the pipeline and the exported runtime share, by name."""


def complaint(name: str, value: Any, rule: Rule | None = None) -> str | None:
    """The sentence that refuses a value, or None; the default rule is that of the name's last part."""
    rule = OPTIONS[name.rpartition(".")[2]] if rule is None else rule
    if rule.allows(value):
        return None
    if isinstance(rule, Choice):
        return f"Unknown {name} {shown(value)}; choose {rule}."
    return f"{name} is {shown(value)}; it must be {rule}."


def text_complaint(name: str, text: Any) -> str | None:
    """The sentence that refuses an option that is not one text of whole characters, or None."""
    if isinstance(text, str) and not Text().allows(text):
        return f"{name} is {shown(text)}, which is not whole Unicode; give it as UTF-8."
    return complaint(name, text, Text())


def first_complaint(values: Mapping[str, Any], may_be_none: Collection[str] = ()) -> str | None:
    """The first `complaint` about options by name; None is allowed for those of ``may_be_none``."""
    found = (
        complaint(name, value)
        for name, value in values.items()
        if not (value is None and name in may_be_none)
    )
    return next(filter(None, found), None)


def too_many_for_a_file(prefix: str, **counts: int) -> str | None:
    """The sentence about ``num_beams`` or ``num_decodes`` of a file beyond `MOST_IN_A_FILE`, or None."""
    bound = f"it must be at most {MOST_IN_A_FILE}, more only where a call asks for them."
    for name, count in counts.items():
        if count > MOST_IN_A_FILE:
            return f"{prefix}{name} is {count}; {bound}"
    return None


def eta_of_another(eta: Any, sampler: str) -> str | None:
    """The sentence about an ``eta`` for another sampler than DDIM, which alone has one, or None."""
    if eta is None or sampler == "ddim":
        return None
    return f"eta is {shown(eta)}, which the sampler {sampler} does not have; leave it out, or choose the sampler ddim."


def above_max_length(min_length: Any, max_length: int) -> str | None:
    """The sentence about a ``min_length`` above a model's ``max_length``, or None; for calls without a max_length."""
    if not OPTIONS["min_length"].allows(min_length) or plain(min_length) <= max_length:
        return None
    return (
        f"min_length is {plain(min_length)}; it must be at most max_length, {max_length} where none is given."
    )


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses an option that does not exist; ``known`` lists those of its section or command."""
    section, _, last = name.rpartition(".")
    known = list(known)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f" (did you mean {'.'.join(filter(None, (section, *close)))}?)" if close else ""
    return f"There is no option {name}{hint}; {section or 'the command'} has {', '.join(known)}."


def elements(values: Any) -> list | None:
    """The elements of a list, tuple, range, or array or tensor of one dimension; None for anything else.

    Also None: texts, mappings, and sets, whose order is arbitrary.
    """
    if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Iterable):
        return None
    try:
        return list(values.tolist() if hasattr(values, "tolist") else values)
    except (TypeError, RuntimeError):  # a 0-d array; a sparse or meta tensor
        return None


def folded(name: str) -> str:
    """A name without regard to case and Unicode normalization."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def plain(value: Any) -> Any:
    """A scalar of NumPy or PyTorch as a Python number; other values unchanged."""
    single = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if single and not getattr(value, "is_meta", False) else value


def shown(value: Any) -> str:
    """A value for a message: on one line, shortened."""
    value = plain(value)
    if isinstance(value, int) and value.bit_length() > 200:  # Python refuses to print very long ones
        return f"a number of {value.bit_length()} bits"
    return " ".join(_repr.repr(value).split())


def _bound(value: float) -> str:
    for exponent in (63, 64):
        if value == 2**exponent - 1:
            return f"2**{exponent}-1"
    return str(value) if isinstance(value, int) else f"{value:f}".rstrip("0").rstrip(".")
