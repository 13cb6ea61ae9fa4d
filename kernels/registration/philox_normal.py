"""Registers ``ld4lg::philox_normal``; ``seed`` is the signed form of the 64-bit seed. No derivative."""

import torch

from ld4lg_fast.kernels.arguments.philox_normal import check_operator
from ld4lg_fast.kernels.library import register


def _fake(seed, sample_ids, stream, shape):
    return sample_ids.new_empty((sample_ids.shape[0], *shape), dtype=torch.float32)


register(
    "philox_normal(int seed, Tensor sample_ids, int stream, SymInt[] shape) -> Tensor",
    _fake,
    check_operator,
    "philox_normal",
    "philox_normal",
)
