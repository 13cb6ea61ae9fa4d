"""Classes and source texts that samples are asked for: checked all at once, drawn batch by batch.

Letters: B batch.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import noise
from .errors import RuntimeInputError
from .folder_schema import FolderConfig
from .option_checks import WholeNumber, elements, plain, shown

MOST_NAMES = 30  # of classes in a message


def chosen_classes(
    config: FolderConfig, class_id: int | Sequence[int] | None, class_name: str | None, num_samples: int
) -> int | np.ndarray | None:
    """The class of all samples or one for each; None where none was asked for.

    Raises:
        RuntimeInputError: a class that the model does not have, or another number of them than of samples.
    """
    if class_id is None and class_name is None:
        return None
    count = config.diffusion.num_classes
    if not count:
        raise RuntimeInputError("A class was given, but this model was trained without classes.")
    if class_id is not None and class_name is not None:
        raise RuntimeInputError("class_id and class_name exclude each other; give one of them.")
    if class_name is not None:
        return _class_of(config, class_name)
    given = elements(class_id)
    numbers: list[Any] = [class_id] if given is None else given
    for number in numbers:
        if not WholeNumber(-(2**63), 2**63).allows(number):
            raise RuntimeInputError(f"class_id {shown(class_id)} must be an integer, or one for each sample.")
        if not 0 <= number < count:
            raise RuntimeInputError(
                f"class_id {plain(number)} is out of range; this model has the classes {_known(config)}."
            )
    if given is not None and len(given) != num_samples:
        raise RuntimeInputError(f"class_id has {len(given)} entries; give one id or {num_samples} of them.")
    return plain(class_id) if given is None else np.array(given, np.int64)


def _class_of(config: FolderConfig, name: Any) -> int:
    names = [known.casefold() for known in config.statistics.class_names or ()]
    if not isinstance(name, str) or name.casefold() not in names:
        raise RuntimeInputError(
            f"There is no class {shown(name)}; this model has the classes {_known(config)}."
        )
    return names.index(name.casefold())


def _known(config: FolderConfig) -> str:
    names = config.statistics.class_names or ()
    told = ", ".join(f"{index} {name}" for index, name in enumerate(names[:MOST_NAMES]))
    return told if len(names) <= MOST_NAMES else f"{told}, … {len(names) - 1} {names[-1]}"


def classes_of(
    config: FolderConfig, chosen: int | np.ndarray | None, seed: int, ids: np.ndarray
) -> np.ndarray | None:
    """A class (B,) for each of the samples ``ids``; None for a model without classes.

    Without a choice it is the null class where that was trained, else drawn as often as in the training texts.
    """
    count, default = config.diffusion.num_classes, config.diffusion.default_class
    if not count:
        return None
    if isinstance(chosen, np.ndarray):
        return chosen[ids]
    if chosen is None and default is None:
        return noise.draw(config.statistics.class_counts or [1] * count, seed, ids, noise.CLASS_STREAM)
    return np.full(len(ids), default if chosen is None else chosen, np.int64)


def chosen_sources(
    config: FolderConfig, source: str | Sequence[str] | None, num_samples: int
) -> str | list[str] | None:
    """The source text of all samples or one for each; None for a model that writes from none.

    Raises:
        RuntimeInputError: no text where the model needs one, one where it does not, another number of them than of
            samples, or a text that is blank or none.
    """
    if config.source is None:
        if source is not None:
            raise RuntimeInputError(
                "A source text was given, but this model was trained without source texts."
            )
        return None
    if source is None:
        raise RuntimeInputError(
            "This model writes from a source text; give source=..., or --source on the command line."
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
        if not isinstance(text, str):
            raise RuntimeInputError(f"{name} is {shown(text)}; it must be a text.")
        if not text.strip():
            raise RuntimeInputError(f"{name} is blank; give a text.")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise RuntimeInputError(f"{name} is {shown(text)}, which is not whole Unicode; give it as UTF-8.")
    return given[0] if isinstance(source, str) else given


def sources_of(chosen: str | list[str] | None, ids: np.ndarray) -> list[str] | None:
    """The source texts of the samples ``ids``."""
    if chosen is None or isinstance(chosen, str):
        return None if chosen is None else [chosen] * len(ids)
    return chosen[ids[0] : ids[-1] + 1]
