"""The arguments of `logits_process` checked, its backend chosen."""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import logits_process as plain
from ld4lg_fast.kernels.registration import logits_process as _registered  # noqa: F401

_logits_process = operator("logits_process")
draw = plain.draw


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

    In this order: the logarithm of the softmax, the repetition penalty (Keskar et al. 2019: the scores of tokens
    that occurred are multiplied by it where negative and divided where positive), no n-gram twice, no end before
    ``min_length``, a forced token, the temperature, the best tokens alone. These are the rules of transformers'
    ``generate``, without its tables on the host.

    Args:
        logits: (R, V).
        ids: (R, T) int64, the tokens so far in the first ``length`` places; every one below V.
        length: (1,) int64 below T, on the device, so that no step waits for the host.
        eos: (E,) int64, the tokens that end a text.
        forced: (T,) int64: the token that must follow after so many, or -1; it alone scores 0.
        normalize: whether the scores are log-probabilities (beam search) or the logits.
        temperature: the scores are divided by it.
        top_k: how many of the best stay (Fan et al. 2018), and those equal to the last of them; 0: all.
        top_p: of these stay the fewest that hold so much of the probability (Holtzman et al. 2020), and those equal
            to the last of them; 1: all.

    Returns:
        (R, V) float32; -inf for what is ruled out.

    Raises:
        ValueError: shapes or dtypes that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    _check(logits, ids, length, eos, forced, repetition_penalty, no_repeat_ngram_size)
    _check_limits(temperature, top_k, top_p)
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, normalize, temperature, top_k, top_p)
    arguments = (logits, ids, length, eos, forced, *rules)
    if backend.choose("logits_process", logits.device.type, (logits.dtype,)) == "reference":
        return plain.logits_process(*arguments)
    return _logits_process(*arguments)


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
    """The ``count`` highest scores that `logits_process` gives each row, from the highest on, and their tokens.

    Returns:
        (R, count) float32 and (R, count) int64. The C++ library never writes the scores of the other tokens.

    Raises:
        As `logits_process`, and ValueError for a count beyond the vocabulary.
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, normalize)
    if backend.choose("logits_best", logits.device.type, (logits.dtype,)) != "native":
        scores = logits_process(logits, ids, length, eos, forced, *rules)
        if count == 1:
            return scores.max(-1, keepdim=True)
        return scores.topk(count)
    _check(logits, ids, length, eos, forced, repetition_penalty, no_repeat_ngram_size)
    if not 0 < count <= logits.shape[1]:
        raise ValueError(f"count is {count}; it needs to be 1 to the vocabulary's {logits.shape[1]}")
    from ld4lg_fast.kernels.cpu.logits_process import logits_best as native

    return native(logits, ids, length, eos, forced, *rules, count)


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
    """Tokens drawn from the softmax of `logits_process`'s scores by inverse transform sampling.

    Args:
        uniforms: (R,) float64 in (0, 1): each row's token is the first, in the vocabulary's order, whose cumulative
            probability exceeds its number.

    Returns:
        (R,) int64. The C++ library never writes the scores.

    Raises:
        As `logits_process`, and ValueError for uniform numbers of another shape or dtype.
    """
    if uniforms.shape != logits.shape[:1] or uniforms.dtype != torch.float64:
        raise ValueError(
            f"uniforms {tuple(uniforms.shape)} {uniforms.dtype} need the shape ({len(logits)},) and float64"
        )
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, False, temperature, top_k, top_p)
    if backend.choose("logits_draw", logits.device.type, (logits.dtype,)) != "native":
        return draw(logits_process(logits, ids, length, eos, forced, *rules), uniforms)
    _check(logits, ids, length, eos, forced, repetition_penalty, no_repeat_ngram_size)
    _check_limits(temperature, top_k, top_p)
    from ld4lg_fast.kernels.cpu.logits_process import logits_draw as native

    return native(logits, ids, length, eos, forced, uniforms, *rules)


def _check_limits(temperature: float, top_k: int, top_p: float) -> None:
    if temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"temperature is {temperature}, top_k {top_k} and top_p {top_p}; they need to be above 0, 0 or more, and "
            "in (0, 1]"
        )


def _check(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    repetition_penalty: float,
    no_repeat_ngram_size: int,
) -> None:
    if logits.ndim != 2 or ids.ndim != 2 or len(logits) != len(ids):
        raise ValueError(
            f"logits {tuple(logits.shape)} and ids {tuple(ids.shape)} need two axes and equally many rows"
        )
    if length.shape != (1,) or eos.ndim != 1 or forced.shape != ids.shape[1:]:
        raise ValueError(
            f"length {tuple(length.shape)}, eos {tuple(eos.shape)} and forced {tuple(forced.shape)} need the shapes "
            f"(1,), (E,) and ({ids.shape[1]},)"
        )
    if {ids.dtype, length.dtype, eos.dtype, forced.dtype} != {torch.int64}:
        raise ValueError(
            f"ids {ids.dtype}, length {length.dtype}, eos {eos.dtype} and forced {forced.dtype} must be int64"
        )
    if repetition_penalty <= 0 or no_repeat_ngram_size < 0:
        raise ValueError(
            f"repetition_penalty is {repetition_penalty} and no_repeat_ngram_size {no_repeat_ngram_size}; "
            "they need to be above 0, and 0 or more"
        )
