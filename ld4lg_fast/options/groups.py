"""Rules of the config groups of the infer and test commands, checked before a model is loaded.

Choices (samplers, strategies) are checked where they are defined, by `sampling_plan` and `DecodingConfig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import (
    MOST,
    Choice,
    Rule,
    Text,
    WholeNumber,
    elements,
    shown,
    unknown_option,
)
from ld4lg_fast.export.runtime.text_display import typed
from ld4lg_fast.options.checks import RULES, check
from ld4lg_fast.options.precisions import TORCH_NAMES, PrecisionChoice

CORPUS = "dataset"  # further entries of this group are checked where the corpus is read


@dataclass(frozen=True)
class OrNull:
    """Marks an entry that may be null, which stands for a default."""

    rule: Rule


@dataclass(frozen=True)
class Path:
    """The name of a file or a folder."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and value != ""

    def __str__(self) -> str:
        return "a path (a number as one is written \"'5'\")"


@dataclass(frozen=True)
class Name:
    """A text, or a number, as Hydra parses a name such as ``5``."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str | int | float) and not isinstance(value, bool)

    def __str__(self) -> str:
        return "a name"


@dataclass(frozen=True)
class ClassNumber:
    """The id of a class; the model checks its range."""

    def allows(self, value: Any) -> bool:
        return WholeNumber(-MOST, MOST).allows(value)

    def __str__(self) -> str:
        return "an integer, the number of a class"


@dataclass(frozen=True)
class ListOf:
    """A list of values that a rule allows, or a single one."""

    rule: Rule

    def allows(self, value: Any) -> bool:
        given = elements(value)
        return all(map(self.rule.allows, [value] if given is None else given))

    def __str__(self) -> str:
        return f"a list, as in [1,2], each entry {self.rule}"


@dataclass(frozen=True)
class Scalar:
    """A text, a number or a switch, as Hydra parses a name such as ``yes``, ``5`` or ``true``."""

    def allows(self, value: Any) -> bool:
        return isinstance(value, str | int | float)

    def __str__(self) -> str:
        return "a name or a number"


@dataclass(frozen=True)
class TableOf:
    """Values that a rule allows, by names."""

    rule: Rule

    def allows(self, value: Any) -> bool:
        return isinstance(value, dict) and all(map(self.rule.allows, value.values()))

    def __str__(self) -> str:
        return f"values by name, as in {{food:Italian}}, each {self.rule}"


Entries = Mapping[str, Rule | OrNull]
Groups = Mapping[str, Entries]


DECODING: Mapping[str, OrNull] = {
    name: OrNull(RULES[name])
    for name in (
        *("max_length", "min_length", "num_beams", "no_repeat_ngram_size", "repetition_penalty", "top_p"),
        *("temperature", "top_k", "length_penalty", "early_stopping", "num_decodes"),
    )
} | {"choose_decode": OrNull(Text()), "precision": OrNull(Text())}

SAMPLING: Entries = {
    "num_candidates": RULES["num_candidates"],
    "batch_size": OrNull(RULES["batch_size"]),
    "quality": Text(),
    "sampler": OrNull(Text()),
    "num_inference_steps": OrNull(RULES["num_inference_steps"]),
    "spacing": OrNull(Text()),
    "eta": OrNull(RULES["eta"]),
    "guidance_scale": OrNull(RULES["guidance_scale"]),
    "guidance_interval": RULES["guidance_interval"],
    "class_id": OrNull(ClassNumber()),
    "class_name": OrNull(Name()),
    **DECODING,
}

RUN: Entries = {
    "output_dir": Path(),
    "output_file": OrNull(Path()),
    "device": OrNull(Name()),
    "dtype": PrecisionChoice(tuple(TORCH_NAMES)),
}

INFER: Groups = {
    "infer": {
        **RUN,
        "source_file": OrNull(Path()),
        "prompt": OrNull(Text()),
        "prompt_file": OrNull(Path()),
    },
    "generation": {
        **SAMPLING,
        "max_new_tokens": OrNull(RULES["max_new_tokens"]),
        "num_samples": OrNull(RULES["num_samples"]),
        "choose_by": Text(),
        "seed": RULES["seed"],
        "deterministic": RULES["deterministic"],
        "strategy": OrNull(Text()),
        "guides": OrNull(TableOf(Scalar())),
        "guide_scales": OrNull(TableOf(RULES["guide_scale"])),
    },
}
"""Of ``configs/infer.yaml``; those of ``configs/test.yaml`` are in `evaluation.options`."""


def checked_groups(config: DictConfig | Mapping, rules: Groups) -> dict[str, dict]:
    """The groups of a config as dictionaries.

    Raises:
        ConfigError: the first entry that is missing or is not what its rule allows.
    """
    container: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    groups = {}
    for group, entries in rules.items():
        given = container.get(group)
        if not isinstance(given, dict):
            raise ConfigError(
                f"{group} is {shown(given)}; it must be a group of options, as in {group}.NAME=VALUE."
            )
        for name in given:
            if name not in entries and group != CORPUS:
                raise ConfigError(unknown_option(f"{group}.{name}", entries))
        for name, rule in entries.items():
            if name not in given:
                raise ConfigError(f"{group}.{name} is missing; leave it as it is instead of deleting it.")
            null, rule = (None, rule.rule) if isinstance(rule, OrNull) else (..., rule)
            if given[name] == "???":
                remedy = (
                    f"give it, as in {group}.{name}=outputs/demo"
                    if isinstance(rule, Path)
                    else f"it must be {rule}"
                )
                raise ConfigError(f"{group}.{name} is needed; {remedy}.")
            if isinstance(rule, Name):
                given[name] = typed(given[name]) if isinstance(given[name], str) else given[name]
            if given[name] is not null:
                check(name if isinstance(rule, Choice) else f"{group}.{name}", given[name], rule)
        groups[group] = given
    return groups
