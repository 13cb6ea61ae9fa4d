"""Tokens drawn from their scores, each with the sentence's own random number.

Letters: R rows, V vocabulary.
"""

import torch
from torch import Tensor

CANDIDATES = 256


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (R,): the first, in the vocabulary's order, whose cumulative probability exceeds the uniform number.

    Inverse transform sampling from softmax(scores), scores (R, V) and uniform numbers (R,) float64 in (0, 1).
    """
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True)
    return token.clamp(max=scores.shape[-1] - 1).squeeze(1)


def draw_nucleus(scores: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float) -> Tensor:
    """`draw` among the ``top_k`` best (0: all) and of these the fewest that hold ``top_p`` of the probability.

    (Fan et al. 2018; Holtzman et al. 2020.) The best `CANDIDATES` usually are enough, and then the vocabulary
    need not be sorted.
    """
    scores = scores / temperature
    vocabulary = scores.shape[-1]
    if top_p == 1.0 and not top_k:
        return draw(scores, uniforms)
    count = min(top_k or CANDIDATES, vocabulary)
    if scores.is_cuda and not top_k:
        count = vocabulary  # to ask whether fewer do would make the host wait
    while True:
        best, tokens = scores.topk(count)
        total = (best if top_k else scores).logsumexp(-1, keepdim=True)
        probability = (best - total).exp()
        before = probability.cumsum(-1) - probability
        if count == vocabulary or top_k or bool((before[:, -1] >= top_p).all()):
            break
        count = min(8 * count, vocabulary)
    if top_p < 1.0:
        outside = before >= top_p
        outside[:, 0] = False
        best = best.masked_fill(outside, float("-inf"))
    tokens, order = tokens.sort(-1)
    place = draw(best.gather(1, order), uniforms)
    return tokens.gather(1, place[:, None]).squeeze(1)
