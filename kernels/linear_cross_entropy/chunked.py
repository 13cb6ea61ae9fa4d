"""Cross-entropy of a matmul in chunks of rows: torch's matmuls on any device; on a CPU the softmax in C++.

The gradients of a mean follow from the logits of each chunk, so the forward pass computes them at once and drops
the logits, chunk by chunk (Hsu et al. 2024, "Liger Kernel").

Letters: R rows, D width of x, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.library import is_traced
from ld4lg_fast.kernels.linear_cross_entropy.checks import check_targets
from ld4lg_fast.kernels.native import DTYPE_CODES

_LOGITS_PER_CHUNK = 2**25  # 128 MiB of float32


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int
) -> Tensor:
    """x (R, D), weight (V, D), targets (R,), bias (V,) -> scalar in float32."""
    if (
        x.device.type == "cpu" and not torch.compiler.is_compiling()
    ):  # elsewhere the host would wait for the count
        kept = (targets != ignore_index).nonzero().flatten()
        if 0 < len(kept) < len(targets):
            x, targets = x.index_select(0, kept), targets[kept]
    if torch.is_grad_enabled():
        return _Chunked.apply(x, weight, targets, bias, ignore_index)
    return _run(x, weight, targets, bias, ignore_index, (False, False, False))[0]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        loss, *grads = _run(x, weight, targets, bias, ignore_index, wanted)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_weight, of_bias = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return of_x, of_weight, None, of_bias, None


def _run(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int, wanted: tuple
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss, and the wanted gradients of x, weight and bias."""
    keep = targets != ignore_index
    classes = targets.masked_fill(~keep, 0)
    share = keep.float() / keep.sum()  # of a row in the mean
    loss = share.new_zeros(())
    of_x = torch.empty_like(x) if wanted[0] else None
    of_weight = of_bias = None
    chunks = -(-x.shape[0] * weight.shape[0] // _LOGITS_PER_CHUNK)
    size = max(1, -(-x.shape[0] // max(1, chunks)))
    for start in range(0, max(1, x.shape[0]), size):
        rows = slice(start, start + size)
        losses, grad = _losses(F.linear(x[rows], weight, bias), classes[rows], any(wanted))
        loss = loss + torch.where(keep[rows], losses, 0.0) @ share[rows]
        # grad lacks the weights of the rows in the mean, which multiply the narrower factor of each matmul.
        if of_x is not None:
            torch.mm(grad, weight, out=of_x[rows]).mul_(share[rows, None])
        if wanted[1]:
            of_weight = _add_product(of_weight, grad.t(), (share[rows, None] * x[rows]).to(x.dtype))
        if wanted[2]:
            of_bias = _add_product(of_bias, grad.t(), keep[rows, None].to(x.dtype))
    return (
        loss,
        of_x,
        None if of_weight is None else of_weight.to(weight.dtype),
        None if of_bias is None or bias is None else (of_bias[:, 0] / keep.sum()).to(bias.dtype),
    )


def _losses(logits: Tensor, classes: Tensor, with_gradients: bool) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[class] of each row in float32, and softmax - class in the logits' dtype if wanted.

    Overwrites the logits.

    Raises:
        IndexError: a class out of its range, on a CPU.
    """
    on_cpu = logits.is_cpu and not is_traced(logits)
    if on_cpu and logits.dtype in DTYPE_CODES and backend.has_native():
        from ld4lg_fast.kernels.linear_cross_entropy.cpu import softmax_cross_entropy_

        return softmax_cross_entropy_(logits, classes, with_gradients), logits
    if on_cpu:
        check_targets(classes, logits.shape[1])
    log_probs = logits.float().log_softmax(-1)
    losses = -log_probs.gather(1, classes[:, None])[:, 0]
    if not with_gradients:
        return losses, logits
    grad = log_probs.exp_()
    grad.scatter_add_(1, classes[:, None], grad.new_full((1, 1), -1.0).expand(grad.shape[0], 1))
    return losses, grad.to(logits.dtype)


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + a·b, the sum in float32."""
    if total is None:
        return a @ b
    total = total.float()
    return total.addmm_(a, b) if a.dtype == total.dtype else total.add_(a @ b)
