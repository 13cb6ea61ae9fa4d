"""Registers ``ld4lg::logits_process``. No derivative."""

import torch

from ld4lg_fast.kernels.library import register


def _fake(logits, ids, length, eos, forced, min_length, repetition_penalty, no_repeat_ngram_size, normalize):
    return logits.new_empty(logits.shape, dtype=torch.float32)


register(
    "logits_process(Tensor logits, Tensor ids, Tensor length, Tensor eos, Tensor forced, int min_length,"
    " float repetition_penalty, int no_repeat_ngram_size, bool normalize) -> Tensor",
    _fake,
    "logits_process",
    "logits_process",
)
