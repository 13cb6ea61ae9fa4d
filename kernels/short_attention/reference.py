from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ld4lg_fast.kernels.short_attention.arguments import Inputs

DIM_HEAD = 64
EXCLUDED = -1e38  # pairs with a bias below this are excluded


def rms_normalized(x: Tensor, gain: Tensor | None) -> Tensor:
    """Heads (…, 64) scaled to root mean square ``gain``; unchanged without a gain."""
    if gain is None:
        return x
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = wide.norm(dim=-1, keepdim=True) * DIM_HEAD**-0.5
    return (wide / norm.clamp(min=1e-8) * gain).to(x.dtype)


def short_attention(*arguments: Any, **named: Any) -> Tensor:
    """See `ops.short_attention`: PyTorch's own attention between two transpositions."""
    q, k, v, bias, q_gain, k_gain = Inputs(*arguments, **named)
    q, k, v = (x.unflatten(-1, (-1, DIM_HEAD)).transpose(1, 2) for x in (q, k, v))
    q, k = rms_normalized(q, q_gain), rms_normalized(k, k_gain)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def gradients(grad: Tensor, *arguments: Any) -> list[Tensor]:
    """Gradients of q, k, v, then (B, H, N, M) of the scores with a bias, (B, H, 64) of the gains with gains.

    The gradients of the bias and of the gains are the sums of these over the axes they are shared by. Excluded
    pairs have no gradient, even if a query has no other pair.
    """
    q, k, v, bias, q_gain, k_gain = Inputs(*arguments)
    dtype = q.dtype
    grad, q, k, v = (x.float().unflatten(-1, (-1, DIM_HEAD)).transpose(1, 2) for x in (grad, q, k, v))
    q_normed, k_normed = rms_normalized(q, q_gain), rms_normalized(k, k_gain)
    scores = q_normed @ k_normed.mT * DIM_HEAD**-0.5
    if bias is not None:
        scores = scores + bias
    probabilities = scores.softmax(-1)
    grad_scores = grad @ v.mT
    grad_scores = probabilities * (grad_scores - (probabilities * grad_scores).sum(-1, keepdim=True))
    if bias is not None:
        grad_scores = grad_scores.masked_fill(bias < EXCLUDED, 0.0)
    grad_q, q_sum = _through_rms(grad_scores @ k_normed * DIM_HEAD**-0.5, q, q_gain)
    grad_k, k_sum = _through_rms(grad_scores.mT @ q_normed * DIM_HEAD**-0.5, k, k_gain)
    found = [x.transpose(1, 2).flatten(2).to(dtype) for x in (grad_q, grad_k, probabilities.mT @ grad)]
    found += [] if bias is None else [grad_scores]
    return found + [x for x in (q_sum, k_sum) if x is not None]


def _through_rms(grad: Tensor, x: Tensor, gain: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if gain is None:
        return grad, None
    norm = (x.norm(dim=-1, keepdim=True) * DIM_HEAD**-0.5).clamp(min=1e-8)
    normed, scaled = x / norm, grad * gain
    return (scaled - normed * (scaled * normed).mean(-1, keepdim=True)) / norm, (grad * normed).sum(2)
