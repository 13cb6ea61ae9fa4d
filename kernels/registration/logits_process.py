"""Registers ``ld4lg::logits_process``. No derivative."""

import torch

from ld4lg_fast.kernels.arguments.logits_process import check
from ld4lg_fast.kernels.library import register


def _fake(logits, *_):
    return logits.new_empty(logits.shape, dtype=torch.float32)


register(
    "logits_process(Tensor logits, Tensor ids, Tensor length, Tensor eos, Tensor forced, int min_length,"
    " float repetition_penalty, int no_repeat_ngram_size, bool normalize, float temperature, int top_k, float top_p)"
    " -> Tensor",
    _fake,
    check,
    "logits_process",
    "logits_process",
)
