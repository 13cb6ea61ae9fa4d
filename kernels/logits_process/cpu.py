"""The decoding rules in C++."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.layout import as_rows
from ld4lg_fast.kernels.logits_process.checks import check_indices, check_open_unit
from ld4lg_fast.kernels.native import FLOAT, I32, I64, POINTER, ROWS, as_matrix, describe, function

_logits_process = function(
    "ld4lg_logits_process",
    [*ROWS, POINTER, I64, I64, POINTER, POINTER, I64, POINTER, I64, FLOAT, I64, I32, FLOAT, I64, FLOAT]
    + [POINTER, I64, POINTER, POINTER, POINTER, I64, I64, I32],
)


def logits_process(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int,
    repetition_penalty: float,
    no_repeat_ngram_size: int,
    normalize: bool,
    temperature: float,
    top_k: int,
    top_p: float,
) -> Tensor:
    """(R, V) float32."""
    scores = logits.new_empty(logits.shape, dtype=torch.float32)
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, bool(normalize), temperature, top_k, top_p)
    _call(logits, ids, length, eos, forced, None, *rules, scores.data_ptr(), 0, 0, 0, 0)
    return scores


def logits_best(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    min_length: int,
    repetition_penalty: float,
    no_repeat_ngram_size: int,
    normalize: bool,
    count: int,
) -> tuple[Tensor, Tensor]:
    """(R, count) float32 and (R, count) int64, from the highest on; the whole scores are written nowhere."""
    best = logits.new_empty((logits.shape[0], count), dtype=torch.float32)
    tokens = ids.new_empty((logits.shape[0], count))
    rules = (min_length, repetition_penalty, no_repeat_ngram_size, bool(normalize), 1.0, 0, 1.0)
    _call(logits, ids, length, eos, forced, None, *rules, 0, count, best.data_ptr(), 0, tokens.data_ptr())
    return best, tokens


def logits_draw(
    logits: Tensor, ids: Tensor, length: Tensor, eos: Tensor, forced: Tensor, uniforms: Tensor, *rules: float
) -> Tensor:
    """(R,) int64; ``rules`` as `logits_process` has them. The whole scores are written nowhere."""
    uniforms = uniforms.contiguous()
    tokens = ids.new_empty(logits.shape[0])
    results = (0, 0, 0, uniforms.data_ptr(), tokens.data_ptr())
    _call(logits, ids, length, eos, forced, uniforms, *rules, *results)
    return tokens


def _call(
    logits: Tensor,
    ids: Tensor,
    length: Tensor,
    eos: Tensor,
    forced: Tensor,
    uniforms: Tensor | None,
    *rules_and_results: float,
) -> None:
    if logits.numel():
        rows, vocabulary = logits.shape
        logits, ids = as_matrix(logits, vocabulary), as_rows(ids, ids.shape[1])
        eos, forced = eos.contiguous(), forced.contiguous()
        beyond = _logits_process(
            *describe(logits, vocabulary),
            ids.data_ptr(),
            ids.stride(0),
            ids.shape[1],
            length.data_ptr(),
            eos.data_ptr(),
            eos.shape[0],
            forced.data_ptr(),
            *rules_and_results,
            rows,
            vocabulary,
            torch.get_num_threads(),
        )
        if beyond:
            check_indices(logits, ids, length, eos, forced)
            if uniforms is not None:
                check_open_unit(uniforms)
