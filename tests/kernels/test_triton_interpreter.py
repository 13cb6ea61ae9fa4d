"""The Triton kernels without a GPU: the case table in Triton's interpreter, in a process of its own.

float32 only, since the interpreter truncates bfloat16.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from packaging.version import Version

triton = pytest.importorskip("triton")


@pytest.mark.skipif(
    Version(triton.__version__) < Version("3.7") and Version(numpy.__version__) >= Version("2.4"),
    reason="the interpreter of this Triton fails with this NumPy wherever a loop ends at a tensor",
)
def test_case_table_in_the_interpreter():
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests / "test_kernels.py")]
    command += ["-k", "triton-cpu and not bfloat16 and not paper"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tests.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
