"""The decoding rules in Triton: one program a row."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048


@triton.jit
def _ordered(scores: tl.tensor) -> tl.tensor:
    """int64 numbers in the order of the float32 scores."""
    bits = scores.to(tl.int32, bitcast=True)
    return tl.where(bits >= 0, bits, bits ^ 0x7FFFFFFF).to(tl.int64)


@triton.jit
def _weight_above(
    scores_ptr: tl.tensor,
    vocabulary: tl.tensor,
    bound: tl.tensor,
    lowest: tl.tensor,
    top: tl.tensor,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Weight of the scores above ``bound`` and of at least ``lowest``: 1 each with COUNT, else exp(score - top)."""
    columns = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        valid = start + columns < vocabulary
        scores = tl.load(scores_ptr + start + columns, mask=valid, other=float("-inf"))
        order = _ordered(scores)
        weight = tl.where(valid, 1.0, 0.0) if COUNT else tl.exp(scores - top)
        total += tl.where((order > bound) & (order >= lowest), weight, 0.0)
    return tl.sum(total, axis=0)


@triton.jit
def _lowest_kept(
    scores_ptr: tl.tensor,
    vocabulary: tl.tensor,
    limit: tl.tensor,
    lowest: tl.tensor,
    top: tl.tensor,
    COUNT: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The smallest number of `_ordered` above which scores weigh less than ``limit``, by bisection of all 2^32."""
    low, high = tl.full((), -2147483648, tl.int64), _ordered(top)
    for _ in range(32):
        middle = (low + high) >> 1
        enough = _weight_above(scores_ptr, vocabulary, middle, lowest, top, COUNT, BLOCK) < limit
        low, high = tl.where(enough, low, middle + 1), tl.where(enough, middle, high)
    return high


@triton.jit
def _limit(
    scores_ptr: tl.tensor,
    vocabulary: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Sets all but the ``top_k`` best to -inf, and of these all but the fewest with probability ``top_p``."""
    columns = tl.arange(0, BLOCK)
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, vocabulary, BLOCK):
        valid = start + columns < vocabulary
        highest = tl.maximum(highest, tl.load(scores_ptr + start + columns, mask=valid, other=float("-inf")))
    top = tl.max(highest, axis=0)
    lowest = tl.full((), -2147483648, tl.int64)
    if TOP_K:
        lowest = _lowest_kept(scores_ptr, vocabulary, top_k, lowest, top, True, BLOCK)
    if TOP_P:
        limit = top_p * _weight_above(scores_ptr, vocabulary, lowest - 1, lowest, top, False, BLOCK)
        lowest = tl.maximum(lowest, _lowest_kept(scores_ptr, vocabulary, limit, lowest, top, False, BLOCK))
    for start in range(0, vocabulary, BLOCK):
        valid = start + columns < vocabulary
        scores = tl.load(scores_ptr + start + columns, mask=valid, other=0.0)
        scores = tl.where(_ordered(scores) >= lowest, scores, float("-inf"))
        tl.store(scores_ptr + start + columns, scores, mask=valid)


@triton.jit(do_not_specialize=["min_length", "top_k"])
def logits_process_kernel(
    logits_ptr: tl.tensor,
    logits_stride: tl.tensor,
    ids_ptr: tl.tensor,
    ids_stride: tl.tensor,
    length_ptr: tl.tensor,
    eos_ptr: tl.tensor,
    forced_ptr: tl.tensor,
    scores_ptr: tl.tensor,
    vocabulary: tl.tensor,
    min_length: tl.tensor,
    repetition_penalty: tl.tensor,
    temperature: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    PLACES: tl.constexpr,
    NUM_EOS: tl.constexpr,
    NGRAM_SIZE: tl.constexpr,
    NORMALIZE: tl.constexpr,
    PENALIZE: tl.constexpr,
    TOP_K: tl.constexpr,
    TOP_P: tl.constexpr,
    EOS_BLOCK: tl.constexpr,
    TOKENS_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Copies a row minus its log-sum-exp, then corrects the tokens that the rules change.

    Skips tokens out of the vocabulary and clamps the length to the PLACES of a text: the host does not check them.
    """
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * logits_stride
    ids_ptr += row * ids_stride
    scores_ptr += row * vocabulary
    length = tl.minimum(tl.maximum(tl.load(length_ptr), 0), PLACES - 1)
    forced = tl.load(forced_ptr + length)
    forced = tl.where(forced < vocabulary, forced, -1)
    ruled_out = float("-inf")
    columns = tl.arange(0, BLOCK)

    shift = 0.0
    if NORMALIZE:
        # A running maximum and sum for each lane, joined at the end.
        highest = tl.full((BLOCK,), -3.0e38, tl.float32)
        total = tl.zeros((BLOCK,), tl.float32)
        for start in range(0, vocabulary, BLOCK):
            valid = start + columns < vocabulary
            values = tl.load(logits_ptr + start + columns, mask=valid, other=ruled_out).to(tl.float32)
            higher = tl.maximum(highest, values)
            total = total * tl.exp(highest - higher) + tl.exp(values - higher)
            highest = higher
        top = tl.max(highest, axis=0)
        shift = top + tl.log(tl.sum(total * tl.exp(highest - top), axis=0))
    for start in range(0, vocabulary, BLOCK):
        valid = start + columns < vocabulary
        values = tl.load(logits_ptr + start + columns, mask=valid, other=0.0).to(tl.float32) - shift
        only = tl.where(start + columns == forced, 0.0, ruled_out)
        tl.store(scores_ptr + start + columns, tl.where(forced >= 0, only, values / temperature), mask=valid)

    # With a forced token, the other rules change nothing.
    count = tl.where(forced < 0, length, 0)
    places = tl.arange(0, TOKENS_BLOCK)
    seen = places < count
    tokens = tl.load(ids_ptr + places, mask=seen, other=0)
    seen = seen & (tokens >= 0) & (tokens < vocabulary)
    if PENALIZE:
        score = tl.load(logits_ptr + tokens, mask=seen, other=0.0).to(tl.float32) - shift
        score = tl.where(score < 0, score * repetition_penalty, score / repetition_penalty)
        tl.debug_barrier()  # other threads stored the row above
        tl.store(scores_ptr + tokens, score / temperature, mask=seen)
    if NGRAM_SIZE > 0:
        repeats = places + NGRAM_SIZE <= count
        for offset in tl.static_range(NGRAM_SIZE - 1):
            earlier = tl.load(ids_ptr + places + offset, mask=repeats, other=-1)
            last = tl.load(ids_ptr + length - NGRAM_SIZE + 1 + offset, mask=length >= NGRAM_SIZE, other=-1)
            repeats = repeats & (earlier == last)
        banned = tl.load(ids_ptr + places + NGRAM_SIZE - 1, mask=repeats, other=0)
        repeats = repeats & (banned >= 0) & (banned < vocabulary)
        tl.debug_barrier()
        tl.store(scores_ptr + banned, tl.full(banned.shape, ruled_out, tl.float32), mask=repeats)
    ends = tl.arange(0, EOS_BLOCK)
    num_banned = tl.where((forced < 0) & (length < min_length), NUM_EOS, 0)
    too_short = ends < num_banned
    end = tl.load(eos_ptr + ends, mask=too_short, other=0)
    too_short = too_short & (end >= 0) & (end < vocabulary)
    tl.debug_barrier()
    tl.store(scores_ptr + end, tl.full(end.shape, ruled_out, tl.float32), mask=too_short)
    if TOP_K or TOP_P:
        tl.debug_barrier()
        _limit(scores_ptr, vocabulary, top_k, top_p, TOP_K, TOP_P, BLOCK)


def logits_process(*arguments: Any) -> Tensor:
    """(R, V) float32."""
    logits, ids, length, eos, forced, min_length, repetition_penalty, no_repeat_ngram_size = arguments[:8]
    normalize, temperature, top_k, top_p = arguments[8:]
    rows, vocabulary = logits.shape
    scores = logits.new_empty(logits.shape, dtype=torch.float32)
    if scores.numel():
        logits = logits if logits.stride(1) == 1 else logits.contiguous()
        ids = ids if ids.stride(1) == 1 else ids.contiguous()
        logits_process_kernel[(rows,)](
            logits,
            logits.stride(0),
            ids,
            ids.stride(0),
            length,
            eos.contiguous(),
            forced.contiguous(),
            scores,
            vocabulary,
            min_length,
            repetition_penalty,
            temperature,
            top_k,
            top_p,
            PLACES=ids.shape[1],
            NUM_EOS=eos.shape[0],
            NGRAM_SIZE=no_repeat_ngram_size if no_repeat_ngram_size <= ids.shape[1] else 0,
            NORMALIZE=normalize,
            PENALIZE=repetition_penalty != 1.0,
            TOP_K=0 < top_k < vocabulary,
            TOP_P=top_p < 1.0,
            EOS_BLOCK=triton.next_power_of_2(max(1, eos.shape[0])),
            TOKENS_BLOCK=triton.next_power_of_2(ids.shape[1]),
            BLOCK=min(_BLOCK, triton.next_power_of_2(vocabulary)),
            num_warps=8,
        )
    return scores
