from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels.logits_process.arguments import Inputs


def logits_process(*arguments: Any, **named: Any) -> Tensor:
    """See `ops.logits_process`. Computes in float32, or in float64 for float64 logits.

    Tokens out of the vocabulary are ignored and the length is clamped, as by the kernels on a GPU.
    """
    inputs = Inputs(*arguments, **named)
    logits, ids, length, eos, forced, min_length, repetition_penalty, no_repeat_ngram_size = inputs[:8]
    normalize, temperature, top_k, top_p = inputs[8:]
    scores = logits if logits.dtype == torch.float64 else logits.float()
    if normalize:
        scores = F.log_softmax(scores, dim=-1)
    vocabulary, tokens = scores.shape[1], ids.shape[1]
    length = length.clamp(0, tokens - 1)
    known = torch.where((ids >= 0) & (ids < vocabulary), ids, vocabulary)
    # One extra column receives what has no effect.
    seen = torch.where(torch.arange(tokens, device=ids.device) < length, known, vocabulary)
    scores = F.pad(scores, (0, 1))
    if repetition_penalty != 1.0:
        old = scores.gather(1, seen)
        penalty = float(repetition_penalty)
        new = torch.where(old < 0, old * penalty, old / penalty)
        scores = scores.scatter(1, seen, new)
    size = no_repeat_ngram_size
    if 0 < size <= tokens:
        windows = ids.unfold(1, size, 1)
        suffix = (length - size + 1 + torch.arange(size - 1, device=ids.device)).clamp(min=0)
        repeats = (windows[..., :-1] == ids.index_select(1, suffix)[:, None]).all(-1)
        repeats &= torch.arange(windows.shape[1], device=ids.device) + size <= length
        scores = scores.scatter(1, torch.where(repeats, known[:, size - 1 :], vocabulary), float("-inf"))
    scores = scores[:, :-1]
    columns = torch.arange(vocabulary, device=ids.device)
    too_short = (columns[:, None] == eos).any(1) & (length < min_length)
    scores = scores.masked_fill(too_short, float("-inf"))
    token = forced.index_select(0, length)
    token = torch.where(token < vocabulary, token, -1)
    only = torch.where(columns == token, 0.0, float("-inf")).to(scores)
    return _limited(torch.where(token >= 0, only, scores) / float(temperature), top_k, top_p)


def _limited(scores: Tensor, top_k: int, top_p: float) -> Tensor:
    """The scores (R, V) with all but the best at -inf. Equal scores are kept or removed together."""
    if 0 < top_k < scores.shape[1]:
        lowest = scores.topk(top_k).values[:, -1:]
        scores = scores.masked_fill(scores < lowest, float("-inf"))
    if top_p < 1:
        ordered = scores.sort(dim=-1, descending=True).values
        probability = ordered.softmax(dim=-1)
        above = probability.cumsum(dim=-1) - probability
        lowest = ordered.masked_fill(above >= top_p, float("inf")).amin(dim=-1, keepdim=True)
        scores = scores.masked_fill(scores < lowest, float("-inf"))
    return scores


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """See `ops.draw`."""
    cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
    threshold = uniforms[:, None] * cumulative[:, -1:]
    token = torch.searchsorted(cumulative, threshold, right=True)
    return token.clamp(max=scores.shape[-1] - 1).squeeze(1)
