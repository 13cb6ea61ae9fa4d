"""The one table of cases that tests and benchmarks share; an operation's cases are in ``cases/``."""

from ld4lg_fast.kernels.cases import adaln_residual, philox_normal

CASES = (*adaln_residual.CASES, *philox_normal.CASES)
