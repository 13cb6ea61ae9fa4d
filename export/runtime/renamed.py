"""Options that had another name in 0.1, and command lines and stored settings with today's names.

The standard library alone.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

RENAMED: Mapping[str, str] = {
    "learn-times": "learn-timesteps",
    "--steps": "--num-inference-steps",
    "--tries": "--best-of",
    "generation.sampling_steps": "generation.num_inference_steps",
    "generation.strategies": "generation.strategy",
    "train.validation_sampling_steps": "train.validation_num_inference_steps",
    "train.adapt_from": "train.finetune_decoder_from",
}
"""Today's names of commands, of their options and of Hydra's, by the old ones."""

_OPTION = re.compile(r"(?P<prefix>[+~]*)(?P<name>[^=]+)(?P<value>(=.*)?)", re.DOTALL)


def current_words(words: Sequence[str]) -> list[str]:
    """A command line with today's names of the options ``--option`` and ``group.option=value``."""
    return [_current(word) for word in words]


def renamed_words(words: Sequence[str]) -> list[str]:
    """A sentence about every option of a command line that is given by its old name."""
    return [renamed_word(name) for name in dict.fromkeys(filter(None, map(_old_name, words)))]


def renamed_word(name: str) -> str:
    """The sentence about one old name."""
    return f"{name} is now {RENAMED[name]}; the old name goes away in 0.3."


def given_twice(words: Sequence[str]) -> str | None:
    """The sentence that refuses a command line with the old and the new name of an option; None where none has."""
    names = {found["name"] for word in words if (found := _OPTION.fullmatch(word))}
    for old, new in RENAMED.items():
        if old in names and new in names and _old_name(old):
            return f"{old} and {new} are the old and the new name of one option; give {new} alone."
    return None


def current_entries(section: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """A group of stored options, as ``train`` of a run's config, with today's names."""
    names = {name: RENAMED.get(f"{section}.{name}", name).rpartition(".")[2] for name in entries}
    return {name if names[name] in entries else names[name]: value for name, value in entries.items()}


def _old_name(word: str) -> str | None:
    """The old name that a word of a command line begins with; the name of a command or a file is none."""
    found = _OPTION.fullmatch(word)
    is_option = found and found["name"] in RENAMED and re.match(r"--|\w+\.", found["name"])
    return found["name"] if found and is_option else None


def _current(word: str) -> str:
    name = _old_name(word)
    return word if name is None else word.replace(name, RENAMED[name], 1)
