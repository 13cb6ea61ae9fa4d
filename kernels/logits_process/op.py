"""The rules of text generation applied to logits, and what is taken of them: the best tokens, or a draw.

Letters: R rows, V vocabulary, T tokens that the texts have room for.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import (
    FLOAT32_MAX,
    FLOAT32_MIN,
    INT64_MAX,
    check_device,
    check_integer,
    check_within,
)
from ld4lg_fast.kernels.library import is_traced, operator, register
from ld4lg_fast.kernels.logits_process import reference


def check(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int,
    repetition_penalty: float,
    no_repeat_ngram_size: int,
    normalize: bool = False,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> None:
    """Refuses shapes, dtypes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
    of_logits, of_ids = logits.shape, ids.shape
    if len(of_logits) != 2 or len(of_ids) != 2 or of_logits[0] != of_ids[0]:
        raise ValueError(
            f"logits {tuple(of_logits)} and ids {tuple(of_ids)} need two axes and equally many rows"
        )
    if 0 in (of_logits[1], of_ids[1]):
        raise ValueError(
            f"logits {tuple(of_logits)} and ids {tuple(of_ids)} need rows of at least one element"
        )
    if length.shape != (1,) or eos.ndim != 1 or forced.shape != (of_ids[1],):
        raise ValueError(
            f"length {tuple(length.shape)}, eos {tuple(eos.shape)} and forced {tuple(forced.shape)} need the shapes "
            f"(1,), (E,) and ({of_ids[1]},)"
        )
    if not (ids.dtype == length.dtype == eos.dtype == forced.dtype == torch.int64):
        raise ValueError(
            f"ids {ids.dtype}, length {length.dtype}, eos {eos.dtype} and forced {forced.dtype} must be int64"
        )
    check_device("logits ids length eos forced", logits, ids, length, eos, forced)
    if not FLOAT32_MIN <= repetition_penalty <= FLOAT32_MAX or no_repeat_ngram_size < 0:
        raise ValueError(
            f"repetition_penalty is {repetition_penalty} and no_repeat_ngram_size {no_repeat_ngram_size}; "
            "they need to be above 0 and finite, and 0 or more"
        )
    if not FLOAT32_MIN <= temperature <= FLOAT32_MAX or top_k < 0 or not FLOAT32_MIN <= top_p <= 1:
        raise ValueError(
            f"temperature is {temperature}, top_k {top_k} and top_p {top_p}; they need to be above 0 and finite, "
            "0 or more, and in (0, 1]"
        )
    for name, number in (
        ("min_length", min_length),
        ("no_repeat_ngram_size", no_repeat_ngram_size),
        ("top_k", top_k),
    ):
        if type(number) is not int or not 0 <= number <= INT64_MAX:
            check_integer(name, number)


def check_indices(logits: Tensor, ids: Tensor, length: Tensor, eos: Tensor, forced: Tensor) -> None:
    """Refuses tokens beyond the vocabulary and lengths beyond the texts, on a CPU.

    Raises:
        IndexError: naming one.
    """
    rows, vocabulary = logits.shape
    if rows:
        check_within("length", length, 0, ids.shape[1] - 1)
        check_within("eos", eos, 0, vocabulary - 1)
        check_within("forced", forced[length], -1, vocabulary - 1)
        check_within("ids", ids[:, : int(length)], 0, vocabulary - 1)


def check_count(count: int, vocabulary: int) -> None:
    """Refuses more best tokens than there are, or none.

    Raises:
        ValueError: naming it.
    """
    if not 0 < count <= vocabulary:
        raise ValueError(f"count is {count}; it needs to be 1 to the vocabulary's {vocabulary}")
    check_integer("count", count)


def check_uniforms(uniforms: Tensor, scores: Tensor) -> None:
    """Refuses random numbers that are not one for each row of ``scores``.

    Raises:
        ValueError: naming their shape and dtype.
    """
    if uniforms.shape != (scores.shape[0],) or uniforms.dtype != torch.float64:
        raise ValueError(
            f"uniforms {tuple(uniforms.shape)} {uniforms.dtype} need the shape ({scores.shape[0]},) and float64"
        )
    check_device("uniforms logits", uniforms, scores)


def check_open_unit(uniforms: Tensor) -> None:
    """Refuses numbers that are not in (0, 1), on a CPU.

    Raises:
        ValueError: naming one.
    """
    if uniforms.numel():
        low, high = (extreme.item() for extreme in torch.aminmax(uniforms))
        if not (low > 0 and high < 1):
            raise ValueError(
                f"uniforms holds {high if low > 0 else low}; it needs numbers above 0 and below 1"
            )


def _fake(logits, *_):
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

    In this order: the logarithm of the softmax, the repetition penalty (Keskar et al. 2019: the scores of tokens
    that occurred are multiplied by it where negative and divided where positive), no n-gram twice, no end before
    ``min_length``, a forced token, the temperature, the best tokens alone. These are the rules of transformers'
    ``generate``, without its tables on the host.

    Args:
        logits: (R, V).
        ids: (R, T) int64, the tokens so far in the first ``length`` places, each in [0, V).
        length: (1,) int64 in [0, T), on the device, so that no step waits for the host.
        eos: (E,) int64, the tokens that end a text, each in [0, V).
        forced: (T,) int64: the token that must follow after so many, or -1; it alone scores 0.
        normalize: whether the scores are log-probabilities (beam search) or the logits.
        temperature: the scores are divided by it.
        top_k: how many of the best stay (Fan et al. 2018), and those equal to the last of them; 0: all.
        top_p: of these stay the fewest that hold so much of the probability (Holtzman et al. 2020), and those equal
            to the last of them; 1: all.

    Returns:
        (R, V) float32; -inf for what is ruled out. On a GPU, where nobody looks at them, tokens out of range are passed
        over as if they were not there, a forced one too, and the nearest length within range stands for another.

    Raises:
        ValueError: shapes, dtypes, devices or numbers that do not fit; the message names them.
        IndexError: a length or a token out of its range, on a CPU; of ``forced``, the one after ``length``.
        BackendUnavailableError: a backend was asked for by name and cannot run these tensors.
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, normalize, temperature, top_k, top_p)
    check(logits, ids, length, eos, forced, *rules)
    name = backend.choose("logits_process", logits.device.type, (logits.dtype,))
    return _scores(name, logits, ids, length, eos, forced, *rules)


def _scores(
    name: str, logits: Tensor, ids: Tensor, length: Tensor, eos: Tensor, forced: Tensor, *rules
) -> Tensor:
    """`logits_process` on the backend ``name``, once the arguments are checked."""
    if name != "native" and logits.is_cpu and not is_traced(logits, ids, length, eos, forced):
        check_indices(logits, ids, length, eos, forced)
    run = reference.logits_process if name == "reference" else _logits_process
    return run(logits, ids, length, eos, forced, *rules)


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
    check(logits, ids, length, eos, forced, *rules)
    check_count(count, logits.shape[1])
    name = backend.choose("logits_best", logits.device.type, (logits.dtype,))
    if name != "native":
        scores = _scores(name, logits, ids, length, eos, forced, *rules, 1.0, 0, 1.0)
        if count == 1:
            return scores.max(-1, keepdim=True)
        return scores.topk(count)
    from ld4lg_fast.kernels.logits_process.cpu import logits_best as native

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
        As `logits_process`, and ValueError for uniform numbers of another shape or dtype or, on a CPU, out of (0, 1).
    """
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, False, temperature, top_k, top_p)
    check(logits, ids, length, eos, forced, *rules)
    check_uniforms(uniforms, logits)
    name = backend.choose("logits_draw", logits.device.type, (logits.dtype,))
    if name != "native":
        return draw(_scores(name, logits, ids, length, eos, forced, *rules), uniforms)
    from ld4lg_fast.kernels.logits_process.cpu import logits_draw as native

    return native(logits, ids, length, eos, forced, uniforms, *rules)


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
