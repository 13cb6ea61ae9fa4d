"""The operations as pytest-benchmark entries: ``pytest benchmarks --benchmark-group-by=param:case``."""

import pytest
import torch

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.case_table import benchmark_cases

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32
CASES = [case for batch in (8, 64) for case in benchmark_cases(batch)]


@pytest.mark.parametrize("name", ["reference", "native" if DEVICE == "cpu" else "triton"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_op(benchmark, case, name):
    if reason := backend.unavailable_reason(name):
        pytest.skip(reason)
    if DTYPE not in case.dtypes:
        pytest.skip(f"no {DTYPE} case")
    arguments = case.arguments(DTYPE, DEVICE)

    def call():
        with torch.no_grad():
            getattr(ops, case.op)(**arguments)
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    with backend.use_backend(name):
        benchmark(call)
