"""The one table of cases that tests and benchmarks share; an operation's cases are in ``cases/``."""

from ld4lg_fast.kernels.cases import (
    adaln_residual,
    add_layer_norm,
    geglu,
    geglu_linear,
    linear_cross_entropy,
    logits_process,
    philox_normal,
    quantize_rows,
    sampler_step,
    short_attention,
)
from ld4lg_fast.kernels.testing import OpCase

_OPERATIONS = (
    adaln_residual,
    add_layer_norm,
    geglu,
    geglu_linear,
    linear_cross_entropy,
    logits_process,
    philox_normal,
    quantize_rows,
    sampler_step,
    short_attention,
)

CASES = tuple(case for operation in _OPERATIONS for case in operation.CASES)


def benchmark_cases(batch: int) -> tuple[OpCase, ...]:
    """Every operation at the paper's sizes with a batch of that many sequences."""
    return tuple(case for operation in _OPERATIONS for case in operation.benchmarks(batch))
