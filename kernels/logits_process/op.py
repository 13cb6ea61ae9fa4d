"""The rules of text generation applied to logits, and the best or sampled tokens.

Letters: R rows, V vocabulary, T capacity of the texts in tokens.
"""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import is_traced, operator, register
from ld4lg_fast.kernels.logits_process import reference
from ld4lg_fast.kernels.logits_process.checks import (
    check,
    check_count,
    check_indices,
    check_open_unit,
    check_uniforms,
)


def _fake(logits: Tensor, *_: object) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float32)


register(
    "logits_process(Tensor logits, Tensor ids, Tensor length, Tensor eos, Tensor forced, int min_length,"
    " float repetition_penalty, int no_repeat_ngram_size, bool normalize, float temperature, int top_k, float top_p)"
    " -> Tensor",
    _fake,
    check,
    "logits_process",
    "logits_process",
)


_logits_process = operator("logits_process")


def logits_process(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    normalize: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Scores of the next token under the decoding rules, in one pass over the logits.

    In this order: log-softmax, repetition penalty (Keskar et al. 2019: the scores of tokens in the text are
    multiplied by it if negative and divided if positive), no repeated n-gram, no end before ``min_length``, a forced
    token, temperature, top-k, top-p. These are the rules of transformers' ``generate``, without its tables on the host.

    Args:
        logits: (R, V).
        ids: (R, T) int64, the tokens so far are the first ``length``, each in [0, V).
        length: (1,) int64 in [0, T), on the device, so that no step waits for the host.
        eos: (E,) int64, the tokens that end a text, each in [0, V).
        forced: (T,) int64: the token that must follow a text of each length, or -1. It scores 0 and all others -inf.
        normalize: whether the scores are log-probabilities (beam search) or the logits.
        temperature: the scores are divided by it.
        top_k: how many of the best tokens to keep (Fan et al. 2018), with those equal to the last of them; 0: all.
        top_p: keeps the fewest of these with this total probability (Holtzman et al. 2020), with those equal to the
            last of them; 1: all.

    Returns:
        (R, V) float32; -inf for excluded tokens. On a GPU, tokens out of range are ignored, also a forced one, and the
        length is clamped, since the host does not check them.

    Raises:
        ValueError: shapes, dtypes, devices or numbers that do not fit; the message names them.
        IndexError: a length or a token out of its range, on a CPU; of ``forced``, the one after ``length``.
        BackendUnavailableError: a backend requested by name cannot run these tensors.
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, normalize, temperature, top_k, top_p)
    inputs = (logits, ids, length, eos, forced, *rules)
    check(*inputs)
    return _scores(backend.choose("logits_process", logits.device.type, (logits.dtype,)), *inputs)


def _scores(name: str, *inputs: Any) -> Tensor:
    """`logits_process` on the backend ``name``, once the arguments are checked."""
    tensors = inputs[:5]
    if name != "native" and tensors[0].is_cpu and not is_traced(*tensors):
        check_indices(*tensors)
    return reference.logits_process(*inputs) if name == "reference" else _logits_process(*inputs)


def logits_best(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    normalize: bool = False,
    count: int = 1,
) -> tuple[Tensor, Tensor]:
    """The ``count`` highest scores of `logits_process` in each row, in descending order, and their tokens.

    Returns:
        (R, count) float32 and (R, count) int64. The C++ library does not write the scores of the other tokens.

    Raises:
        As `logits_process`, and ValueError for a count above the vocabulary.
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, normalize, 1.0, 0, 1.0)
    inputs = (logits, ids, length, eos, forced, *rules)
    check(*inputs)
    check_count(count, logits.shape[1])
    name = backend.choose("logits_best", logits.device.type, (logits.dtype,))
    if name != "native":
        scores = _scores(name, *inputs)
        if count == 1:
            return scores.max(-1, keepdim=True)
        return scores.topk(count)
    from ld4lg_fast.kernels.logits_process.cpu import logits_best as native

    return native(count, *inputs)


def logits_draw(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    uniforms: Tensor,
    min_length: int = 0,
    repetition_penalty: float = 1.0,
    no_repeat_ngram_size: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Tensor:
    """Tokens sampled from the softmax of `logits_process`'s scores by inverse transform sampling.

    Args:
        uniforms: (R,) float64 in (0, 1): each row's token is the first, in the order of the vocabulary, whose
            cumulative probability exceeds its number.

    Returns:
        (R,) int64. The C++ library does not write the scores.

    Raises:
        As `logits_process`, and ValueError for uniform numbers of another shape or dtype or, on a CPU, out of (0, 1).
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, False, temperature, top_k, top_p)
    inputs = (logits, ids, length, eos, forced, *rules)
    check(*inputs)
    check_uniforms(uniforms, logits)
    name = backend.choose("logits_draw", logits.device.type, (logits.dtype,))
    if name != "native":
        return draw(_scores(name, *inputs), uniforms)
    from ld4lg_fast.kernels.logits_process.cpu import logits_draw as native

    return native(uniforms, *inputs)


def draw(scores: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (R,): the first, in the vocabulary's order, whose cumulative probability exceeds the uniform number.

    Inverse transform sampling from softmax(scores), scores (R, V) and uniform numbers (R,) float64 in (0, 1).

    Raises:
        ValueError: shapes or dtypes that do not fit or, on a CPU, a number out of (0, 1).
    """
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(
            f"scores has shape {tuple(scores.shape)}; it needs two axes, the last of at least one token"
        )
    check_uniforms(uniforms, scores)
    if uniforms.is_cpu and not is_traced(uniforms):
        check_open_unit(uniforms)
    return reference.draw(scores, uniforms)
