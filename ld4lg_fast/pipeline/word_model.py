"""`WordModel`: a class, or a number, from the words of a text: regression on its word n-grams.

Letters: B texts, C classes (1 of a number), V n-grams.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.export.runtime.similarity import words

LONGEST = 3  # words of an n-gram
MOST_GRAMS = 1500  # the most frequent ones
FEWEST = 2  # texts that an n-gram occurs in
PENALTIES = (1e-2, 1e-3, 1e-4)
HELD_OUT = 5  # every fifth text is held out, to choose the penalty
ITERATIONS = 100


def held_out(count: int) -> Tensor:
    """Which of ``count`` examples are held out, (count,) bool."""
    return torch.arange(count) % HELD_OUT == 0


def loss_of(scores: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C) and classes (B,); half the squared error of numbers (B, 1)."""
    if scores.shape[1] == 1:
        return F.mse_loss(scores[:, 0], targets) / 2
    return F.cross_entropy(scores, targets)


def word_ngrams(text: str) -> list[str]:
    """The different runs of 1 … `LONGEST` words of a text."""
    found = words(text)
    runs = (" ".join(found[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(found) - n + 1))
    return list(dict.fromkeys(runs))


@dataclass(frozen=True)
class WordModel:
    """Regression on which n-grams a text has: ``scores = weight[:, present].sum(dim=1) + bias``.

    ``grams``: V runs of words; ``weight`` (C, V) and ``bias`` (C,) float32. With C > 1 the scores are logits of
    classes, else they are a number.
    """

    grams: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    @classmethod
    def fit(cls, texts: Sequence[str], targets: Tensor, num_classes: int | None) -> tuple["WordModel", float]:
        """Fits classes (B,) int64, or numbers (B,) float32 if ``num_classes`` is None.

        Returns:
            The model, and its loss on the texts that were held out to choose the penalty: the share of wrong classes,
            or the root mean square error.
        """
        counts = Counter(gram for text in texts for gram in word_ngrams(text))
        grams = tuple(gram for gram, count in counts.most_common(MOST_GRAMS) if count >= FEWEST)
        outputs = num_classes or 1
        empty = cls(grams, torch.zeros(outputs, len(grams)), torch.zeros(outputs))
        bags, held = empty._bags(texts), held_out(len(texts))

        def fitted(rows: Tensor, penalty: float) -> "WordModel":
            chosen = [bags[row] for row in rows.nonzero()[:, 0].tolist()]
            return cls(grams, *_regression(chosen, targets[rows], empty.weight, penalty))

        errors = {}
        for penalty in PENALTIES:
            model = fitted(~held, penalty)
            scores = _scores([bags[row] for row in held.nonzero()[:, 0].tolist()], model.weight, model.bias)
            errors[penalty] = _error(scores, targets[held])
        best = min(errors, key=errors.__getitem__)
        return fitted(torch.ones_like(held), best), errors[best]

    def scores(self, texts: Sequence[str]) -> Tensor:
        """Logits (B, C), or numbers (B, 1), float32."""
        return _scores(self._bags(texts), self.weight, self.bias)

    def _bags(self, texts: Sequence[str]) -> list[Tensor]:
        """The numbers of the known n-grams of each text, int64."""
        place = {gram: number for number, gram in enumerate(self.grams)}
        found = ([place[gram] for gram in word_ngrams(text) if gram in place] for text in texts)
        return [torch.tensor(numbers, dtype=torch.long) for numbers in found]


def _regression(
    bags: Sequence[Tensor], targets: Tensor, start: Tensor, penalty: float
) -> tuple[Tensor, Tensor]:
    """Weight, like ``start`` (C, V), and bias (C,) with the least loss plus ``penalty``/2 times the squared weights."""
    weight, bias = start.clone().requires_grad_(), start.new_zeros(len(start), requires_grad=True)
    search: Any = {"line_search_fn": "strong_wolfe", "history_size": 20}
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, **search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(_scores(bags, weight, bias), targets) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()


def _scores(bags: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    starts = torch.tensor([0, *map(len, bags)][:-1]).cumsum(0)
    return F.embedding_bag(torch.cat(list(bags)), weight.T.contiguous(), starts, mode="sum") + bias


def _error(scores: Tensor, targets: Tensor) -> float:
    if scores.shape[1] == 1:
        return (2 * loss_of(scores, targets)).sqrt().item()
    return (scores.argmax(dim=1) != targets).float().mean().item()
