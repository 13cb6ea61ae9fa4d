"""Attention of one new position of every text over its key-value cache, on a CPU.

Letters: S sentences, W beams, H heads of the keys, G query heads for each, K head width, T positions of the cache,
C slots of each.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.argument_checks import FLOAT32_MAX, FLOAT32_MIN, check_device, check_integer
from ld4lg_fast.kernels.backend import require_native


def check(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    span: int,
    chosen: Tensor | None,
    bias: Tensor | None,
    key: Tensor | None,
    value: Tensor | None,
    rotary: Tensor | None,
    window: int | None,
    softcap: float | None,
) -> None:
    """Refuses shapes, dtypes, devices and strides that do not fit.

    Raises:
        ValueError: naming them.
    """
    of_keys, of_query = keys.shape, query.shape
    fits = len(of_keys) == 5 and len(of_query) == 2 and values.shape == of_keys
    if fits:
        sentences, heads, capacity, slots, width = of_keys
        texts, columns = of_query
        beams = texts // sentences if sentences else 0
        fits = (
            texts == sentences * beams
            and heads * width > 0
            and columns % (heads * width) == 0
            and 0 < span <= capacity
            and slots > 0
        )
    if not fits:
        raise ValueError(
            f"query {tuple(of_query)}, keys {tuple(of_keys)}, values {tuple(values.shape)} and span {span} do "
            "not fit; they need (S·W, H·G·K), twice (S, H, T, C, K), and 1 to T"
        )
    if type(span) is not int:
        check_integer("span", span)
    if window is not None:
        check_integer("window", window, low=1)
    if softcap is not None and not FLOAT32_MIN <= softcap <= FLOAT32_MAX:
        raise ValueError(f"softcap is {softcap}; it needs to be above 0 and finite, or None")
    if not query.dtype == keys.dtype == values.dtype == torch.float32:
        raise ValueError(
            f"query is {query.dtype}, keys {keys.dtype}, values {values.dtype}; they need float32"
        )
    if not (keys.is_contiguous() and values.is_contiguous()):
        raise ValueError(
            f"keys and values have strides {keys.stride()} and {values.stride()}; they need no gaps"
        )
    if chosen is not None:
        if texts and chosen.shape != (sentences, beams, capacity):
            raise ValueError(
                f"chosen {tuple(chosen.shape)} needs the slots of (S, W, T) for keys {tuple(of_keys)}"
            )
        if chosen.dtype != torch.int64 or not chosen.is_contiguous():
            raise ValueError(
                f"chosen is {chosen.dtype} with strides {chosen.stride()}; it needs int64 without gaps"
            )
    if bias is not None:
        of_bias = bias.shape
        fits = len(of_bias) == 3 and of_bias[0] in (1, sentences) and of_bias[1] in (1, heads)
        if not fits or of_bias[2] < span or bias.dtype != torch.float32:
            raise ValueError(
                f"bias is {bias.dtype} {tuple(of_bias)}; it needs float32 (S or 1, H or 1, {span} or more) "
                f"for keys {tuple(of_keys)}"
            )
    if key is not None or value is not None:
        _check_new(key, value, (texts, heads * width), fits=beams <= slots)
    if rotary is not None and (
        key is None or rotary.shape != (2, width // 2) or width % 2 or rotary.dtype != torch.float32
    ):
        raise ValueError(
            f"rotary is {rotary.dtype} {tuple(rotary.shape)}; it needs float32 (2, K/2), a new key, and an even K, "
            f"which is {width}"
        )
    check_device(
        "query keys values chosen bias key value rotary",
        query,
        keys,
        values,
        chosen,
        bias,
        key,
        value,
        rotary,
    )
    if not query.is_cpu:
        raise ValueError(f"query is on {query.device}; it needs a CPU")


def _check_new(key: Tensor | None, value: Tensor | None, shape: tuple[int, int], fits: bool) -> None:
    if key is None or value is None or not fits:
        raise ValueError("key and value come together, with a slot for every beam")
    if not key.shape == value.shape == shape or not key.dtype == value.dtype == torch.float32:
        found = f"key is {key.dtype} {tuple(key.shape)}, value {value.dtype} {tuple(value.shape)}"
        raise ValueError(f"{found}; they need float32 {shape}")


def cached_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    span: int,
    scale: float,
    chosen: Tensor | None = None,
    bias: Tensor | None = None,
    key: Tensor | None = None,
    value: Tensor | None = None,
    rotary: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """softmax(scale · query keysᵀ + bias) values over the first ``span`` positions, where each text sees one slot.

    All tensors are float32 on the CPU, and contiguous except those of two axes and ``bias``. Beams of a sentence can
    share slots, so that choosing beams moves no keys. G adjacent heads of the query share a head of the keys
    (grouped-query attention: Ainslie et al. 2023).

    Args:
        query: (S·W, H·G·K), rows may have a stride. keys, values: (S, H, T, C, K).
        chosen: (S, W, T) int64, the slot in [0, C) with the text's own key for each of the first ``span`` positions;
            None: slot 0 everywhere.
        bias: (S or 1, H or 1, span or more) or None.
        key, value: (S·W, H·K) or None; stored before, at the last position of the span, that of beam w in slot w.
        rotary: (2, K/2), cosines and sines by which ``query`` and ``key`` are rotated (RoPE: Su et al. 2021), or None.
        window: the number of last positions that are seen; None for all.
        softcap: scores become softcap · tanh(score / softcap) before ``bias`` is added (Gemma 2); None for no cap.

    Returns:
        (S·W, H·G·K).

    Raises:
        BackendUnavailableError: the C++ library is not available.
        ValueError: shapes, dtypes, devices or strides that do not fit; the message names them.
        IndexError: a slot out of its range.
    """
    require_native("cached_attention")
    check(query, keys, values, span, chosen, bias, key, value, rotary, window, softcap)
    from ld4lg_fast.kernels.cached_attention.cpu import cached_attention as native

    return native(query, keys, values, span, scale, chosen, bias, key, value, rotary, window, softcap)
