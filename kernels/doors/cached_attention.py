"""Attention of one new position of every text over its cache, on a CPU.

Letters: S sentences, W beams, H heads, K head width, T positions that the cache has room for, C slots of each.
"""

from torch import Tensor

from ld4lg_fast.kernels.arguments.cached_attention import check
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
        chosen: (S, W, T) int64, in which slot of a position the text's own key lies, of the first ``span`` in [0, C);
            None for the first everywhere.
        bias: (S or 1, H or 1, span or more) or None.

    Returns:
        (S·W, H·K).

    Raises:
        BackendUnavailableError: the C++ library is not here.
        ValueError: shapes, dtypes, devices or strides that do not fit; the message names them.
        IndexError: a slot out of its range.
    """
    require_native("cached_attention")
    check(query, keys, values, span, chosen, bias)
    from ld4lg_fast.kernels.cpu.cached_attention import cached_attention as native

    return native(query, keys, values, span, scale, chosen, bias)
