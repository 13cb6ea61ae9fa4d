"""Class and source text of samples: options checked for all samples at once, then resolved batch by batch.

The package checks them with the same functions. Letters: B batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import noise
from .errors import RuntimeInputError
from .folder_schema import FolderConfig
from .option_checks import MOST, WholeNumber, elements, folded, plain, shown, text_complaint

MOST_NAMES = 30  # of classes in a message


def check_classes(
    names: Sequence[str], class_id: Any, class_name: Any, num_samples: int
) -> int | list[int] | None:
    """The class id of all samples or a list with one for each; None if neither option was given.

    Args:
        names: of the model's classes; empty for a model without classes.

    Raises:
        RuntimeInputError: a class that the model does not have, both options, or another number of ids than samples.
    """
    if class_id is None and class_name is None:
        return None
    if not names:
        given = f"class_id {shown(class_id)}" if class_name is None else f"class_name {shown(class_name)}"
        raise RuntimeInputError(
            f"{given} was given, but this model was trained without classes; leave it out."
        )
    if class_id is not None and class_name is not None:
        raise RuntimeInputError(
            f"class_id {shown(class_id)} and class_name {shown(class_name)} exclude each other; give one of them."
        )
    if class_name is not None:
        return class_index(names, class_name)
    ids = elements(class_id)
    for number in [class_id] if ids is None else ids:
        if not WholeNumber(-MOST, MOST).allows(number):
            raise RuntimeInputError(f"class_id {shown(class_id)} must be an integer, or one for each sample.")
        if not 0 <= number < len(names):
            raise RuntimeInputError(
                f"class_id {plain(number)} is out of range; this model has {describe_classes(names)}."
            )
    if ids is not None and len(ids) != num_samples:
        raise RuntimeInputError(f"class_id has {len(ids)} entries; give one id or {num_samples} of them.")
    return plain(class_id) if ids is None else [plain(number) for number in ids]


def class_index(names: Sequence[str], name: Any) -> int:
    """The id of a class by its name, ignoring case and Unicode normalization; a number is the name that looks like it.

    Raises:
        RuntimeInputError: there is no such class.
    """
    folded_names = [folded(known) for known in names]
    asked = folded(str(name)) if isinstance(name, str | int | float) else None
    if asked not in folded_names or isinstance(name, bool):
        raise RuntimeInputError(f"There is no class {shown(name)}; this model has {describe_classes(names)}.")
    return folded_names.index(asked)


def describe_classes(names: Sequence[str]) -> str:
    """``the classes 0 World, 1 Sports``; of many classes the first and the last."""
    listed = "the classes " + ", ".join(f"{index} {name}" for index, name in enumerate(names[:MOST_NAMES]))
    return listed if len(names) <= MOST_NAMES else f"{listed}, … {len(names) - 1} {names[-1]}"


def classes_of(
    config: FolderConfig, chosen: int | list[int] | None, seed: noise.Seed, ids: np.ndarray
) -> np.ndarray | None:
    """A class (B,) for each of the samples ``ids``; None for a model without classes.

    Without a choice: the null class where that was trained, else classes with the frequencies of the training texts.
    """
    count, default = config.diffusion.num_classes, config.diffusion.default_class
    if not count:
        return None
    if isinstance(chosen, list):
        return np.array(chosen, np.int64)[ids]
    if chosen is None and default is None:
        return noise.draw(config.statistics.class_counts or [1] * count, seed, ids, noise.CLASS_STREAM)
    return np.full(len(ids), default if chosen is None else chosen, np.int64)


def check_sources(
    is_seq2seq: bool, source: Any, num_samples: int, option: str = "--source"
) -> str | list[str] | None:
    """The source text of all samples or a list with one for each; None for a model that takes none.

    Args:
        option: how the command line gives a source, for messages.

    Raises:
        RuntimeInputError: sources missing, superfluous, blank, no texts, or another number of them than of samples.
    """
    if not is_seq2seq:
        if source is not None:
            raise RuntimeInputError(
                "A source text was given, but this model was trained without source texts; leave source out."
            )
        return None
    if source is None:
        raise RuntimeInputError(
            f"This model writes from a source text; give source=..., or {option} on the command line."
        )
    given = [source] if isinstance(source, str) else elements(source)
    if given is None:
        raise RuntimeInputError(f"source is {shown(source)}; give a text or a list of them.")
    if not isinstance(source, str) and len(given) != num_samples:
        raise RuntimeInputError(
            f"There are {len(given)} sources for {num_samples} samples; give one for each."
        )
    for place, text in enumerate(given):
        name = "source" if isinstance(source, str) else f"source[{place}]"
        if sentence := text_complaint(name, text):
            raise RuntimeInputError(sentence)
        if not text.strip():
            raise RuntimeInputError(f"{name} is blank; give a text.")
    return given[0] if isinstance(source, str) else given


def sources_of(chosen: str | list[str] | None, ids: np.ndarray) -> list[str] | None:
    """The source texts of the samples ``ids``."""
    if chosen is None or isinstance(chosen, str):
        return None if chosen is None else [chosen] * len(ids)
    return chosen[ids[0] : ids[-1] + 1]
