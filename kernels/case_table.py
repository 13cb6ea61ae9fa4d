"""All cases of tests and benchmarks, from the ``cases.py`` in the folder of every operation."""

from importlib import import_module
from pathlib import Path

from ld4lg_fast.kernels.testing import OpCase

_OPERATIONS = tuple(
    import_module(f"ld4lg_fast.kernels.{path.parent.name}.cases")
    for path in sorted(Path(__file__).parent.glob("*/cases.py"))
)

CASES: tuple[OpCase, ...] = tuple(case for operation in _OPERATIONS for case in operation.CASES)


def benchmark_cases(batch: int) -> tuple[OpCase, ...]:
    """Every operation at the paper's sizes with a batch of that many sequences."""
    return tuple(case for operation in _OPERATIONS for case in operation.benchmarks(batch))
