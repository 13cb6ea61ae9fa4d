"""What `ops.philox_normal` and its operator take."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ld4lg_fast.kernels.arguments.rules import check_integer

MAX_SIZE = 2**34  # elements of a sample: a counter of 32 bits for each four


def check(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> None:
    """Refuses numbers, shapes and dtypes that do not fit; ``seed`` has no sign.

    Raises:
        ValueError: naming them.
    """
    if type(seed) is not int or not 0 <= seed < 2**64:
        check_integer("seed", seed, high=2**64 - 1)
    if type(stream) is not int or not 0 <= stream < 2**32:
        check_integer("stream", stream, high=2**32 - 1)
    if sample_ids.ndim != 1 or sample_ids.dtype != torch.int64:
        raise ValueError(
            f"sample_ids is {sample_ids.dtype} of shape {tuple(sample_ids.shape)}; it needs one axis of int64"
        )
    if prod(shape) > MAX_SIZE or min(shape, default=0) < 0:
        raise ValueError(
            f"shape is {tuple(shape)}; it needs lengths of 0 or more, and at most 2**34 elements"
        )


def check_operator(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> None:
    """What ``ld4lg::philox_normal`` takes: the seed's 64 bits with a sign."""
    check(seed % 2**64, sample_ids, stream, shape)
