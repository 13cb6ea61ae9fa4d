"""Every Triton kernel compiled ahead of time for absent GPUs at the paper's sizes; spills are refused.

Launches are recorded while all cases run on CPU tensors, so a new kernel is covered by its cases.
"""

import re
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.case_table import CASES, benchmark_cases
from ld4lg_fast.kernels.library import IMPLEMENTATIONS
from ld4lg_fast.kernels.testing import run

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from ld4lg_fast.kernels.geglu_linear import triton as geglu_linear  # noqa: E402

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
MAX_REGISTERS = 168  # three programs of four warps on a multiprocessor's 65,536 registers
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.int64: "*i64",
}
PAPER_CASES = [
    case for case in CASES if case.name in ("autocast", "latents") or case.name.startswith("paper")
]
LAUNCH_OPTIONS = ("num_warps", "num_stages")


@pytest.fixture
def launches(monkeypatch):
    """Launches recorded instead of run: (kernel, arguments by name, launch options)."""
    recorded = []

    def record(kernel, *args, grid, warmup, **kwargs):
        options = {name: kwargs.pop(name) for name in LAUNCH_OPTIONS if name in kwargs}
        recorded.append((kernel, dict(zip(kernel.arg_names, args, strict=False)) | kwargs, options))

    monkeypatch.setattr(JITFunction, "run", record)
    return recorded


class ToTriton(TorchDispatchMode):
    """Sends calls of our operators to their Triton functions, for tensors on any device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace != "ld4lg":
            return func(*args, **(kwargs or {}))
        module, function = IMPLEMENTATIONS[func.name()]
        return getattr(import_module(f"ld4lg_fast.kernels.{module}.triton"), function)(*args)


def specialise(kernel, arguments):
    """Signature, constants and attributes as Triton's own launcher would choose them."""
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        aligned = not parameter.do_not_specialize
        is_one = aligned and isinstance(value, int) and value == 1
        if parameter.is_constexpr or value is None or is_one:
            signature[parameter.name] = "constexpr"
            constants[(position,)] = value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            aligned = aligned and value.data_ptr() % 16 == 0
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
            aligned = False
        else:
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = aligned and value % 16 == 0
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return signature, constants, attributes


@pytest.fixture
def compile_case(launches, tmp_path, monkeypatch):
    """(case, dtype, capability) -> the kernels that it launches, compiled, each specialisation the first time."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(backend, "_requested", "triton")  # without a GPU
    monkeypatch.setattr(backend, "choose", lambda *_: "triton")
    seen = set()

    def kernels(case, dtype, capability):
        launches.clear()
        monkeypatch.setattr(geglu_linear, "generation", lambda _: capability // 10)
        with ToTriton():
            run(getattr(ops, case.op), case.arguments(dtype))
        for kernel, arguments, options in launches:
            signature, constants, attributes = specialise(kernel, arguments)
            key = (kernel.__name__, capability, *map(str, (signature, constants, attributes, options)))
            if key not in seen:
                seen.add(key)
                source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
                target = GPUTarget("cuda", capability, 32)
                yield kernel.__name__, triton.compile(source, target=target, options=options)

    return kernels


@pytest.mark.skipif(backend.INTERPRETED, reason="Triton's interpreter does not compile")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c.id}-{str(d)[6:]}") for c in PAPER_CASES for d in c.dtypes],
)
def test_compiles_without_spills(case, dtype, capability, compile_case, tmp_path):
    if capability < case.capability:
        pytest.skip("that GPU is too old")
    kernels = list(compile_case(case, dtype, capability))
    assert kernels
    for name, compiled in kernels:
        cubin = tmp_path / f"{name}.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        used = subprocess.run(
            [CUOBJDUMP, "-res-usage", cubin], capture_output=True, text=True, check=True
        ).stdout
        usage = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", used)}
        print(f"{name} sm_{capability}: {usage}, {compiled.metadata.shared} bytes shared")
        assert usage["STACK"] == 0 and usage["LOCAL"] == 0, f"{name} spills: {used}"
        matmul = "mma" in compiled.asm["ptx"]  # its accumulators may fill the registers
        assert matmul or usage["REG"] <= MAX_REGISTERS, f"{name} needs {usage['REG']} registers"


@pytest.mark.skipif(backend.INTERPRETED, reason="Triton's interpreter does not compile")
@pytest.mark.parametrize("op", sorted({case.op for case in PAPER_CASES}))
def test_compiles_at_other_sizes(op, compile_case):
    """One sequence above all: the launcher makes a constant of a size of 1, which has no methods of a tensor."""
    others = [case for case in (*benchmark_cases(1), *CASES) if case.op == op and case not in PAPER_CASES]
    compiled = [
        kernel for case in others for dtype in case.dtypes for kernel in compile_case(case, dtype, 90)
    ]
    assert compiled
