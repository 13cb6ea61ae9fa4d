from collections.abc import Callable

import torch

from ld4lg_fast.kernels.testing import Arguments, OpCase


def philox_arguments(
    ids: list[int], shape: tuple[int, ...], seed: int = 5, stream: int = 3
) -> Callable[[torch.Generator], Arguments]:
    """Arguments of `ops.philox_normal`."""

    def make(generator: torch.Generator) -> Arguments:
        return {
            "seed": seed,
            "sample_ids": torch.tensor(ids, dtype=torch.int64),
            "stream": stream,
            "shape": shape,
        }

    return make


def _philox(name: str, ids: list[int], shape: tuple[int, ...], **options: int) -> OpCase:
    make = philox_arguments(ids, shape, **options)
    return OpCase("philox_normal", name, make, dtypes=(torch.float32,), differentiable=False)


CASES = (
    _philox("latents", [0, 1, 2, 7], (32, 64)),
    _philox("small", [0, 1, 2, 3], (3, 5)),
    _philox("odd", [3, 2**40 + 1, 2**63 - 1, -1], (3, 7), seed=2**64 - 3, stream=2**32 - 1),
    _philox("scalar-samples", [4, 5], ()),
    _philox("empty", [], (32, 64)),
    _philox("empty-samples", [1, 2], (0, 3)),
)


def benchmarks(batch: int) -> tuple[OpCase, ...]:
    """One step's noise of the paper's latents."""
    return (_philox(f"{batch}x32x64", list(range(batch)), (32, 64)),)
