"""Normal noise in C++; the mapping is in `reference.philox_normal`."""

import torch
from torch import Tensor

from ld4lg_fast.kernels.native import I32, I64, POINTER, U32, U64, function

_philox_normal = function("ld4lg_philox_normal", [U64, POINTER, I64, U32, I64, POINTER, I32])


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: list[int]) -> Tensor:
    """(B, *shape) float32."""
    sample_ids = sample_ids.contiguous()
    samples = sample_ids.shape[0]
    out = sample_ids.new_empty((samples, *shape), dtype=torch.float32)
    if out.numel():
        size = out.numel() // samples
        threads = torch.get_num_threads()
        _philox_normal(seed % 2**64, sample_ids.data_ptr(), samples, stream, size, out.data_ptr(), threads)
    return out
