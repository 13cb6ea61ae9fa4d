"""The arguments of `philox_normal` checked, its backend chosen."""

from collections.abc import Sequence

from torch import Tensor

from ld4lg_fast.kernels import backend
from ld4lg_fast.kernels.arguments.philox_normal import check
from ld4lg_fast.kernels.library import operator
from ld4lg_fast.kernels.plain import philox_normal as plain
from ld4lg_fast.kernels.registration import philox_normal as _registered  # noqa: F401

_philox_normal = operator("philox_normal", placed=1)


def philox_normal(seed: int, sample_ids: Tensor, stream: int, shape: Sequence[int]) -> Tensor:
    """Standard normal noise with a random stream of its own for every sample.

    A number depends on (seed, its sample's id, stream, its place in the sample) and on nothing else: not on
    the batch, the device's generator or what was drawn before. `reference.philox_normal` gives the mapping
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
        return plain.philox_normal(seed, sample_ids, stream, shape)
    signed = seed - 2**64 if seed >= 2**63 else seed
    return _philox_normal(signed, sample_ids, stream, list(shape))
