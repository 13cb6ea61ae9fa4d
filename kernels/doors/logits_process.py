"""The arguments of `logits_process` checked, its backend chosen."""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import logits_process as plain
from ld4lg_fast.kernels.registration import logits_process as _registered  # noqa: F401

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
) -> Tensor:
    """Scores of the next token under the decoding rules, in one pass over the logits.

    In this order: the logarithm of the softmax, the repetition penalty (Keskar et al. 2019: the scores of tokens
    that occurred are multiplied by it where negative and divided where positive), no n-gram twice, no end before
    ``min_length``, a forced token. These are the rules of transformers' ``generate``, without its tables on the host.

    Args:
        logits: (R, V).
        ids: (R, T) int64, the tokens so far in the first ``length`` places; every one below V.
        length: (1,) int64 below T, on the device, so that no step waits for the host.
        eos: (E,) int64, the tokens that end a text.
        forced: (T,) int64: the token that must follow after so many, or -1; it alone scores 0.
        normalize: whether the scores are log-probabilities (beam search) or the logits.

    Returns:
        (R, V) float32; -inf for what is ruled out.

    Raises:
        ValueError: shapes or dtypes that do not fit; the message names them.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    _check(logits, ids, length, eos, forced, repetition_penalty, no_repeat_ngram_size)
    arguments = (
        logits,
        ids,
        length,
        eos,
        forced,
        min_length,
        repetition_penalty,
        no_repeat_ngram_size,
        normalize,
    )
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
