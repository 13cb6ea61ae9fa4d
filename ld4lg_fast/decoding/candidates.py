"""One text out of several candidates for the same source: minimum Bayes risk, the surest, and the oracle's choice."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.similarity import (
    CHOICES,
    SIMILARITIES,
    SURENESS,
    bleu,
    minimum_bayes_risk,
    rouge_l,
)

__all__ = [
    "CHOICES",
    "SIMILARITIES",
    "SURENESS",
    "Similarity",
    "bleu",
    "choose",
    "get_similarity",
    "in_groups",
    "minimum_bayes_risk",
    "oracle",
    "rouge_l",
]

T = TypeVar("T")
Similarity = Callable[[str, str], float]


def get_similarity(name: str) -> Similarity:
    """The similarity of that name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SIMILARITIES:
        raise ConfigError(f"Unknown similarity {name!r}; choose one of {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name]


def choose(candidates: Sequence[str], scores: Sequence[float], by: str) -> int:
    """Index of one candidate: by minimum Bayes risk under a similarity of that name, or the first with the best score.

    ``scores`` say how sure the model is of each, see `LatentOperations.confidences`; ``by="score"`` takes the surest.

    Raises:
        ConfigError: unknown name.
    """
    if by == SURENESS:
        return max(range(len(candidates)), key=scores.__getitem__)
    return minimum_bayes_risk(candidates, get_similarity(by))


def oracle(candidates: Sequence[str], reference: str, similarity: Similarity = bleu) -> tuple[int, float]:
    """Index and score of the candidate that is most like the reference: what a perfect choice would give."""
    scores = [similarity(text, reference) for text in candidates]
    best = max(scores)
    return scores.index(best), best


def in_groups(entries: Sequence[T], num_candidates: int) -> list[list[T]]:
    """Texts or scores in a row, ``num_candidates`` for each source -> one list for each source."""
    return [list(entries[i : i + num_candidates]) for i in range(0, len(entries), num_candidates)]
