"""Invalid arguments raise the same message in every backend, and never reach a kernel."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.kernels.case_table import CASES
from tests.kernels.kernel_calls import EVERYWHERE, ON_A_CPU, call, spoiled, valid_arguments
from tests.kernels.spoiled_arguments import rows

ON_CPU = "triton" if backend.INTERPRETED else "native"
needs_library = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")


def on(name: str) -> None:
    if backend.unavailable_reason(name) is not None:
        pytest.skip(backend.unavailable_reason(name))


@contextmanager
def torch_default(default: torch.dtype | str) -> Iterator[None]:
    """Another dtype of new tensors, or another device."""
    try:
        if isinstance(default, str):
            torch.set_default_device(default)
        else:
            torch.set_default_dtype(default)
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", ["reference", ON_CPU])
@pytest.mark.parametrize(
    ("op", "argument", "change", "error", "sentence"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}-{i}") for i, row in enumerate(rows())],
)
def test_every_backend_refuses_alike(op, argument, change, error, sentence, name):
    on("native" if op in ON_A_CPU else name)
    with use_backend(name), pytest.raises(error, match=sentence) as raised:
        call(op)(**spoiled(op, argument, change))
    assert type(raised.value) is error and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["reference", ON_CPU])
@pytest.mark.parametrize("op", [*EVERYWHERE, *ON_A_CPU])
def test_every_tensor_has_to_be_on_one_device(op, name):
    on("native" if op in ON_A_CPU else name)
    arguments = valid_arguments(op)
    tensors = [argument for argument, value in arguments.items() if isinstance(value, torch.Tensor)]
    with use_backend(name):
        call(op)(**arguments)
        for argument in tensors[1:] if len(tensors) > 1 else []:
            with pytest.raises(ValueError, match=r"on meta|on cpu; it needs .* meta"):
                call(op)(**(arguments | {argument: arguments[argument].to("meta")}))


@pytest.mark.parametrize("name", ["reference", ON_CPU])
@pytest.mark.parametrize("op", [*EVERYWHERE, *ON_A_CPU])
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"], ids=str)
def test_torchs_defaults_change_nothing(op, default, name):
    """Neither the default dtype nor the default device."""
    on("native" if op in ON_A_CPU else name)
    arguments = valid_arguments(op)
    with use_backend(name):
        want = call(op)(**arguments)
        with torch_default(default):
            got = call(op)(**arguments)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@needs_library
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, "meta"], ids=str)
@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case.name.startswith("small") and case.differentiable],
    ids=lambda case: case.id,
)
def test_torchs_defaults_change_no_gradient(case, default):
    def gradients() -> tuple[torch.Tensor, ...]:
        outputs = getattr(ops, case.op)(**arguments)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        outputs = [out for out in outputs if out is not None]
        return torch.autograd.grad(outputs, leaves, [torch.ones_like(out) for out in outputs])

    arguments = case.arguments(torch.float32)
    leaves = [a for a in arguments.values() if isinstance(a, torch.Tensor) and a.requires_grad]
    with use_backend("native"):
        want = gradients()
        with torch_default(default):
            got = gradients()
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.skipif(backend.INTERPRETED, reason="this is the process that starts it")
def test_the_same_in_tritons_interpreter():
    pytest.importorskip("triton")
    files = (__file__, str(Path(__file__).with_name("test_kernel_operators.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *files]
    command += ["-k", "triton"]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
