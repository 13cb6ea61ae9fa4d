"""The decoding rules in C++."""

from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels.layout import as_rows
from ld4lg_fast.kernels.logits_process.checks import check_indices, check_open_unit
from ld4lg_fast.kernels.native import FLOAT, I32, I64, POINTER, ROWS, as_matrix, function

_logits_process = function(
    "ld4lg_logits_process",
    [*ROWS, POINTER, I64, I64, POINTER, POINTER, I64, POINTER, I64, FLOAT, I64, I32, FLOAT, I64, FLOAT]
    + [POINTER, I64, POINTER, POINTER, POINTER, I64, I64, I32],
)


def logits_process(*arguments: Any) -> Tensor:
    """(R, V) float32."""
    logits = arguments[0]
    scores = logits.new_empty(logits.shape, dtype=torch.float32)
    _call(arguments, None, scores.data_ptr(), 0, 0, 0, 0)
    return scores


def logits_best(count: int, *arguments: Any) -> tuple[Tensor, Tensor]:
    """(R, count) float32 and (R, count) int64, from the highest on. The other scores are never written."""
    logits, ids = arguments[:2]
    best = logits.new_empty((logits.shape[0], count), dtype=torch.float32)
    tokens = ids.new_empty((logits.shape[0], count))
    _call(arguments, None, 0, count, best.data_ptr(), 0, tokens.data_ptr())
    return best, tokens


def logits_draw(uniforms: Tensor, *arguments: Any) -> Tensor:
    """(R,) int64. The scores are never written."""
    logits, ids = arguments[:2]
    uniforms = uniforms.contiguous()
    tokens = ids.new_empty(logits.shape[0])
    _call(arguments, uniforms, 0, 0, 0, uniforms.data_ptr(), tokens.data_ptr())
    return tokens


def _call(inputs: tuple, uniforms: Tensor | None, *results: int) -> None:
    logits, ids, length, eos, forced, min_length, repetition_penalty, no_repeat_ngram_size = inputs[:8]
    if logits.numel():
        rows, vocabulary = logits.shape
        (logits, of_logits), ids = as_matrix(logits, vocabulary), as_rows(ids, ids.shape[1])
        eos, forced = eos.contiguous(), forced.contiguous()
        out_of_range = _logits_process(
            *of_logits,
            ids.data_ptr(),
            ids.stride(0),
            ids.shape[1],
            length.data_ptr(),
            eos.data_ptr(),
            eos.shape[0],
            forced.data_ptr(),
            min_length,
            repetition_penalty,
            no_repeat_ngram_size,
            bool(inputs[8]),
            *inputs[9:],
            *results,
            rows,
            vocabulary,
            torch.get_num_threads(),
        )
        if out_of_range:
            check_indices(logits, ids, length, eos, forced)
            if uniforms is not None:
                check_open_unit(uniforms)
