"""Reranking: chooses one of several texts for the same source or latent.

By minimum Bayes risk, by the decoder's log-probability, or, as an upper bound, by similarity to a reference.

Letters: B batch, N latents, W language model width, T tokens.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.similarity import SCORE, SIMILARITIES, bleu, minimum_bayes_risk
from ld4lg_fast.models.language_models import LanguageModel

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
    """Index of one candidate: the first with the highest score (``by="score"``), or by minimum Bayes risk.

    ``scores``: log-probabilities, see `LatentOperations.confidences`. Other values of ``by`` name a similarity.

    Raises:
        ConfigError: unknown name.
    """
    if by == SCORE:
        return max(range(len(candidates)), key=scores.__getitem__)
    return minimum_bayes_risk(candidates, get_similarity(by))


def oracle(candidates: Sequence[str], reference: str, similarity: Similarity = bleu) -> tuple[int, float]:
    """Index and score of the candidate most similar to the reference: an upper bound of reranking."""
    scores = [similarity(text, reference) for text in candidates]
    best = max(scores)
    return scores.index(best), best


def in_groups(entries: Sequence[T], num_candidates: int) -> list[list[T]]:
    """Splits consecutive texts or scores, ``num_candidates`` for each source, into one list for each source."""
    return [list(entries[i : i + num_candidates]) for i in range(0, len(entries), num_candidates)]


def until_end(lm: LanguageModel, ids: Tensor) -> Tensor:
    """(B, T) bool: the tokens ``ids`` (B, T) up to the first end of text, which is included."""
    ends = torch.isin(ids, torch.tensor(lm.lm.generation_config.eos_token_id, device=ids.device)).int()
    return ends.cumsum(1) - ends == 0


def model_scores(lm: LanguageModel, states: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """Mean log-probability (B,) float32 of the tokens (B, T) after the first, up to the first end, given the states.

    Args:
        states: (B, N, W), what the decoder reads; mask (B, N) or None for all.
    """
    logits = lm.logits(states, mask, ids[:, :-1])
    targets = ids[:, 1:]
    scores = logits.float().log_softmax(-1).gather(2, targets[:, :, None]).squeeze(2)
    kept = until_end(lm, targets)
    return (scores * kept).sum(1) / kept.sum(1)


def choose_by_score(
    lm: LanguageModel, states: Tensor, decodes: list[Tensor], mask: Tensor | None
) -> list[int]:
    """For each of B latents, the index of the decode (B, T) with the highest mean log-probability per token."""
    scores = torch.stack([model_scores(lm, states, ids, mask) for ids in decodes])
    return scores.argmax(0).tolist()


def choose_by_risk(decodes: list[list[str]], similarity: str) -> list[int]:
    """For each latent, the index of the decode most similar to the others; ``decodes``: the texts of each decode."""
    measure = get_similarity(similarity)
    return [minimum_bayes_risk(texts, measure) for texts in zip(*decodes, strict=True)]
