"""Warnings about figures that mislead: of too few texts, of unequal texts, of references that the model has seen."""

from collections.abc import Callable, Sequence

from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.export.runtime.similarity import words

ENOUGH_TEXTS = 1000  # of each side; Pillutla et al. 2021 take 5,000, and mauve-text advises a few thousand
OTHER_LENGTH = 0.25  # relative difference of the mean numbers of words above which a warning is given
SEEN = 0.01  # share of the references among the training texts, likewise
ONE_SEED = "one seed alone has no interval; give several, as in evaluation.seeds=[0,1,2]"

Truncated = Callable[[Sequence[str]], int]
"""How many texts are as long as the model's longest, so that they were cut, or can not be reached."""


def mauve_cautions(
    samples: Sequence[str],
    references: Sequence[str],
    training: Sequence[str] | TrainingNgrams | None,
    max_length: int,
    truncated: Truncated | None = None,
) -> list[str]:
    """Why MAUVE of these texts, none of them empty, says less than it seems to; a clause each.

    Args:
        max_length: tokens of a text that features see.
    """
    found = []
    fewest = min(len(samples), len(references))
    if fewest < ENOUGH_TEXTS:
        found.append(
            f"MAUVE of {fewest} texts is biased, so that it compares with others of this number alone; it needs "
            f"{ENOUGH_TEXTS} or more"
        )
    if len(samples) != len(references):
        found.append(
            f"MAUVE compares {len(samples)} texts with {len(references)} references, the others being empty; it is for "
            "equal numbers"
        )
    own, real = (sum(len(words(text)) for text in texts) / len(texts) for texts in (samples, references))
    if abs(own - real) > OTHER_LENGTH * real:
        found.append(
            f"the texts have {own:.1f} words on average and the references {real:.1f}, so that MAUVE measures length, "
            "too"
        )
    beyond = sum(len(words(text)) > max_length for texts in (samples, references) for text in texts)
    if beyond:
        found.append(
            f"{beyond} texts have more words than the {max_length} tokens that MAUVE's features see; raise "
            "evaluation.max_length"
        )
    if truncated is not None:
        for kind, texts in (("texts", samples), ("references", references)):
            if count := truncated(texts):
                found.append(
                    f"{count} of {len(texts)} {kind} are as long as the model's longest text, or longer, and were cut"
                )
    if training is not None and (count := _seen(references, training)) > SEEN * len(references):
        found.append(f"{count} of {len(references)} references are training texts, which the model has seen")
    return found


def _seen(references: Sequence[str], training: Sequence[str] | TrainingNgrams) -> int:
    """How many references are among the training texts."""
    if isinstance(training, TrainingNgrams):
        return training.count_texts(references)
    known = set(training)
    return sum(text in known for text in references)
