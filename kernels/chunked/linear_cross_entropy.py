"""Cross-entropy of a product by chunks of rows, in plain PyTorch on any device.

The gradients of a mean are known as soon as a chunk's logits are, so the forward pass computes them at once and the
logits are dropped, chunk by chunk (Hsu et al. 2024, "Liger Kernel").

Letters: R rows, D width of x, V vocabulary.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_LOGITS_PER_CHUNK = 2**24  # 64 MiB of float32


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
    def forward(ctx, x, weight, targets, bias, ignore_index):
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[3]
        loss, *grads = _run(x, weight, targets, bias, ignore_index, wanted)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        of_x, of_weight, of_bias = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        return of_x, of_weight, None, of_bias, None


def _run(
    x: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, ignore_index: int, wanted: tuple
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss, and its gradients of x, weight and bias where they are wanted."""
    keep = targets != ignore_index
    classes = targets.masked_fill(~keep, 0)[:, None]
    share = keep / keep.sum()  # of a row in the mean
    loss = share.new_zeros(())
    of_x = torch.empty_like(x) if wanted[0] else None
    of_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
    of_bias = torch.zeros_like(bias, dtype=torch.float32) if wanted[2] else None
    chunks = -(-x.shape[0] * weight.shape[0] // _LOGITS_PER_CHUNK)
    size = max(1, -(-x.shape[0] // max(1, chunks)))
    for start in range(0, x.shape[0], size):
        rows = slice(start, start + size)
        log_probs = F.linear(x[rows], weight, bias).float().log_softmax(-1)
        loss = loss - torch.where(keep[rows], log_probs.gather(1, classes[rows])[:, 0], 0.0) @ share[rows]
        if not any(wanted):
            continue
        # softmax - target, without the rows' shares: these go to the narrow factors of the products.
        grad = log_probs.exp_()
        grad.scatter_add_(1, classes[rows], grad.new_full((1, 1), -1.0).expand(grad.shape[0], 1))
        if of_bias is not None:
            of_bias += share[rows] @ grad
        grad = grad.to(x.dtype)
        if of_x is not None:
            torch.mm(grad, weight, out=of_x[rows]).mul_(share[rows, None])
        if of_weight is not None:
            shared = (share[rows, None] * x[rows]).to(x.dtype)
            if of_weight.dtype == shared.dtype:
                of_weight.addmm_(grad.t(), shared)
            else:
                of_weight += grad.t() @ shared
    return (
        loss,
        of_x,
        None if of_weight is None else of_weight.to(weight.dtype),
        None if of_bias is None else of_bias.to(bias.dtype),
    )
