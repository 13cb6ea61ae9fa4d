"""Normal noise from Philox4x32-10 (Salmon et al. 2011): a function of seed, sample and step. No derivative."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.argument_checks import check_integer
from ld4lg_fast.kernels.library import operator, register
from ld4lg_fast.kernels.philox_normal import reference

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


def _fake(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    return sample_ids.new_empty((sample_ids.shape[0], *shape), dtype=torch.float32)


register(
    "philox_normal(int seed, Tensor sample_ids, int stream, SymInt[] shape) -> Tensor",
    _fake,
    check_operator,
    "philox_normal",
    "philox_normal",
)


_philox_normal = operator("philox_normal", placed=1)


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise with a random stream of its own for every sample.

    A number depends on (seed, sample id, stream, index in the sample) alone, not on the batch, the device's
    generator or earlier calls. `reference.philox_normal` gives the mapping
    (Philox4x32-10, Salmon et al. 2011, and Box-Muller).

    Args:
        seed: 0 … 2⁶⁴-1.
        sample_ids: (B,) int64, the samples' numbers.
        stream: 0 … 2³²-1, for example the sampling step.
        shape: of one sample; at most 2³⁴ elements.

    Returns:
        (B, *shape) float32 on sample_ids' device.

    Raises:
        ValueError: an argument out of its range.
        BackendUnavailableError: a backend was asked for by name and cannot run here.
    """
    check(seed, sample_ids, stream, shape)
    if backend.choose("philox_normal", sample_ids.device.type, ()) == "reference":
        return reference.philox_normal(seed, sample_ids, stream, shape)
    signed = seed - 2**64 if seed >= 2**63 else seed
    return _philox_normal(signed, sample_ids, stream, list(shape))
