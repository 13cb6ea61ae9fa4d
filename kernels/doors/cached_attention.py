"""Attention of one new position of every text over its cache, on a CPU.

Letters: S sentences, W beams, H heads, K head width, T positions that the cache has room for, C slots of each.
"""

from torch import Tensor

from ld4lg_fast.kernels.backend import require_native


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

    Everything is float32 on the CPU and, but for ``query`` and ``bias``, contiguous; keys may be the same for all
    beams of a sentence, and a choice of beams moves none of them.

    Args:
        query: (S·W, H·K), rows may lie apart. keys, values: (S, H, T, C, K).
        chosen: (S, W, T) int64, in which slot of a position the text's own key lies; None for the first everywhere.
        bias: (S or 1, H or 1, span or more) or None.

    Returns:
        (S·W, H·K).

    Raises:
        BackendUnavailableError: the C++ library is not here.
        ValueError: shapes that do not fit; the message names them.
    """
    require_native("cached_attention")
    sentences, heads, capacity, slots, width = keys.shape
    if values.shape != keys.shape or query.shape[1] != heads * width or not 0 < span <= capacity:
        raise ValueError(
            f"query {tuple(query.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)} and span {span} do "
            "not fit; they need (S·W, H·K), twice (S, H, T, C, K), and 1 to T"
        )
    if chosen is not None and chosen.shape != (sentences, len(query) // max(sentences, 1), capacity):
        raise ValueError(
            f"chosen {tuple(chosen.shape)} needs the slots of (S, W, T) for keys {tuple(keys.shape)}"
        )
    from ld4lg_fast.kernels.cpu.cached_attention import cached_attention as native

    return native(query, keys, values, span, scale, chosen, bias)
