"""The language model's loss from its logits in C++. Letters: R rows, V vocabulary."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.linear_cross_entropy.checks import check_targets
from ld4lg_fast.kernels.native import I32, I64, POINTER, ROWS, describe, function

_loss = function("ld4lg_softmax_cross_entropy", [*ROWS, POINTER, POINTER, I64, I64, I32, I32])


def softmax_cross_entropy_(logits: Tensor, targets: Tensor, with_gradients: bool) -> Tensor:
    """-log softmax(logits)[target] of each row, (R,) float32. Overwrites the logits (R, V).

    With ``with_gradients``, the logits become softmax - target of each row.

    Raises:
        IndexError: a target out of its range.
    """
    rows, vocabulary = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    if rows:
        targets = targets.contiguous()
        out_of_range = _loss(
            *describe(logits, vocabulary),
            targets.data_ptr(),
            losses.data_ptr(),
            rows,
            vocabulary,
            with_gradients,
            torch.get_num_threads(),
        )
        if out_of_range:
            check_targets(targets, vocabulary)
    return losses
