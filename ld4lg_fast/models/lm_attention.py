"""The short attention of `ops` as one that transformers' models can be told to use, for training in bfloat16 on a CPU.

Letters: B batch, H heads, N queries, M keys, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ld4lg_fast.kernels import ops
from ld4lg_fast.models.layers import DIM_HEAD

NAME = "ld4lg_short"


def use_short_attention(lm: PreTrainedModel, device: torch.device) -> None:
    """Has a model attend by `ops.short_attention` on a CPU in bfloat16, where PyTorch's own takes long to go back."""
    if device.type == "cpu":
        lm.set_attn_implementation(NAME)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """(B, H, N, d), (B, H, M, d) and a mask (B, 1, N, M), bool or float, to (B, N, H, d), as transformers has it.

    PyTorch's own in float32, where it is no slower, and where ours has no such case: dropout, heads of another width,
    scores that are scaled otherwise or have a bias of their own (T5).
    """
    _, heads, _, dim = query.shape
    fits = query.dtype == torch.bfloat16 and dim == DIM_HEAD and key.shape[1] == heads
    plain = not dropout and scaling in (None, DIM_HEAD**-0.5) and options.get("position_bias") is None
    if not (fits and plain):
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    bias, lowest = attention_mask, torch.finfo(query.dtype).min
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros(bias.shape, dtype=query.dtype).masked_fill_(~bias, lowest)
    elif bias is not None:
        bias = bias.clamp(min=lowest).to(query.dtype)
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    return ops.short_attention(q, k, v, bias).unflatten(-1, (heads, dim)), None


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """The mask in full: a causal one is not left to the attention."""
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False})


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
