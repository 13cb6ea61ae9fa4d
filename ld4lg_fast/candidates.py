"""One text out of several candidates for the same source: minimum Bayes risk, the surest, and the oracle's choice."""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from ld4lg_fast.errors import ConfigError

T = TypeVar("T")
Similarity = Callable[[str, str], float]


def sentence_bleu(hypothesis: str, reference: str) -> float:
    """Smoothed sentence BLEU of sacrebleu, 0 to 100."""
    from sacrebleu import sentence_bleu as bleu

    return bleu(hypothesis, [reference]).score


def rouge_l(hypothesis: str, reference: str) -> float:
    """F-measure of ROUGE-L (Lin 2004) over lower-case words and numbers, unstemmed, 0 to 100."""
    ours, theirs = (re.findall("[a-z0-9]+", text.lower()) for text in (hypothesis, reference))
    # common[j]: longest common subsequence of the words of ours so far and the first j of theirs.
    common = [0] * (len(theirs) + 1)
    for word in ours:
        diagonal = 0
        for j, other in enumerate(theirs, 1):
            best = diagonal + 1 if word == other else max(common[j], common[j - 1])
            diagonal, common[j] = common[j], best
    return 200 * common[-1] / max(1, len(ours) + len(theirs))


SIMILARITIES: dict[str, Similarity] = {"bleu": sentence_bleu, "rougeL": rouge_l}


def get_similarity(name: str) -> Similarity:
    """The similarity of that name.

    Raises:
        ConfigError: unknown name.
    """
    if name not in SIMILARITIES:
        raise ConfigError(f"Unknown similarity {name!r}; choose one of {', '.join(SIMILARITIES)}.")
    return SIMILARITIES[name]


SURENESS = "score"  # what `choose` calls the model's own score
CHOICES = (SURENESS, *SIMILARITIES)


def choose(candidates: Sequence[str], scores: Sequence[float], by: str) -> int:
    """Index of one candidate: by minimum Bayes risk under a similarity of that name, or the first with the best score.

    ``scores`` say how sure the model is of each, see `LatentOperations.confidences`; ``by="score"`` takes the surest.

    Raises:
        ConfigError: unknown name.
    """
    if by == SURENESS:
        return max(range(len(candidates)), key=scores.__getitem__)
    return minimum_bayes_risk(candidates, get_similarity(by))


def minimum_bayes_risk(candidates: Sequence[str], similarity: Similarity = sentence_bleu) -> int:
    """Index of the candidate that is most like the others on average (Kumar & Byrne 2004); or the first."""
    if len(candidates) < 2:
        return 0
    scores = [
        sum(similarity(text, other) for j, other in enumerate(candidates) if j != i)
        for i, text in enumerate(candidates)
    ]
    return scores.index(max(scores))


def oracle(
    candidates: Sequence[str], reference: str, similarity: Similarity = sentence_bleu
) -> tuple[int, float]:
    """Index and score of the candidate that is most like the reference: what a perfect choice would give."""
    scores = [similarity(text, reference) for text in candidates]
    best = max(scores)
    return scores.index(best), best


def in_groups(entries: Sequence[T], num_candidates: int) -> list[list[T]]:
    """Texts or scores in a row, ``num_candidates`` for each source -> one list for each source."""
    return [list(entries[i : i + num_candidates]) for i in range(0, len(entries), num_candidates)]
