"""Attention of one new position of every text over its key-value cache, on a CPU.

Letters: S sentences, W beams, H heads, K head width, T positions of the cache, C slots of each.
"""

import torch
from torch import Tensor

from ld4lg_fast.kernels.argument_checks import check_device, check_integer
from ld4lg_fast.kernels.backend import require_native


def check(
    query: Tensor, keys: Tensor, values: Tensor, span: int, chosen: Tensor | None, bias: Tensor | None
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
            and columns == heads * width
            and 0 < span <= capacity
            and slots > 0
            and width > 0
        )
    if not fits:
        raise ValueError(
            f"query {tuple(of_query)}, keys {tuple(of_keys)}, values {tuple(values.shape)} and span {span} do "
            "not fit; they need (S·W, H·K), twice (S, H, T, C, K), and 1 to T"
        )
    if type(span) is not int:
        check_integer("span", span)
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
    check_device("query keys values chosen bias", query, keys, values, chosen, bias)
    if not query.is_cpu:
        raise ValueError(f"query is on {query.device}; it needs a CPU")


def cached_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    span: int,
    scale: float,
    chosen: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(scale · query keysᵀ + bias) values over the first ``span`` positions, where each text sees one slot.

    All tensors are float32 on the CPU, and contiguous except ``query`` and ``bias``. Beams of a sentence can share
    slots, so that choosing beams moves no keys.

    Args:
        query: (S·W, H·K), rows may have a stride. keys, values: (S, H, T, C, K).
        chosen: (S, W, T) int64, the slot in [0, C) with the text's own key for each of the first ``span`` positions;
            None: slot 0 everywhere.
        bias: (S or 1, H or 1, span or more) or None.

    Returns:
        (S·W, H·K).

    Raises:
        BackendUnavailableError: the C++ library is not available.
        ValueError: shapes, dtypes, devices or strides that do not fit; the message names them.
        IndexError: a slot out of its range.
    """
    require_native("cached_attention")
    check(query, keys, values, span, chosen, bias)
    from ld4lg_fast.kernels.cached_attention.cpu import cached_attention as native

    return native(query, keys, values, span, scale, chosen, bias)
