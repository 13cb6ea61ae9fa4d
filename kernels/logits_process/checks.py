"""Checks of the arguments of `ops.logits_process`, `ops.logits_best`, `ops.logits_draw` and `ops.draw`."""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.argument_checks import (
    FLOAT32_MAX,
    FLOAT32_MIN,
    INT64_MAX,
    check_device,
    check_integer,
    check_within,
)


def check(*arguments: Any) -> None:
    """Refuses shapes, dtypes, devices and numbers that do not fit.

    Raises:
        ValueError: naming them.
    """
    logits, ids, length, eos, forced, min_length, repetition_penalty, no_repeat_ngram_size = arguments[:8]
    temperature, top_k, top_p = arguments[9:]
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
    """Refuses tokens out of the vocabulary and lengths out of range, on a CPU.

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
    """Refuses a count that is not from 1 to the vocabulary.

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
