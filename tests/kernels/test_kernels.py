"""The operations in every backend, over the case table (kernels/case_table.py).

``pytest -m gpu`` runs the same table on a GPU, tests/kernels/test_triton_interpreter.py in Triton's interpreter.
"""

import logging
from importlib.util import find_spec

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ld4lg_fast.kernels import backend, native, ops, reference
from ld4lg_fast.kernels.adaln_residual.cases import adaln_arguments
from ld4lg_fast.kernels.case_table import CASES
from ld4lg_fast.kernels.library import IMPLEMENTATIONS
from ld4lg_fast.kernels.testing import OpCase, check, poisoned_memory, run

ON_CPU = "triton" if backend.INTERPRETED else "native"
TARGETS = [
    pytest.param(ON_CPU, "cpu", id=f"{ON_CPU}-cpu"),
    pytest.param("triton", "cuda", id="triton-cuda", marks=pytest.mark.gpu),
]
SMALL = [case for case in CASES if case.name.startswith("small")]  # every operation has one


def require(name: str, device: str, *cases: OpCase) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    if not all(case.runs_on(device) for case in cases):
        pytest.skip("the GPU is too old")
    if name == "native" and not backend.has_native():
        pytest.skip(native.LOAD_ERROR)


def small_arguments(dtype=torch.float32, device="cpu", requires_grad=False, **options):
    made = adaln_arguments(2, 3, width=8, **options)(torch.Generator().manual_seed(0))
    return {
        name: None if value is None else value.to(device, dtype).requires_grad_(requires_grad)
        for name, value in made.items()
    }


@pytest.mark.parametrize(("name", "device"), TARGETS)
@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, d, id=f"{c.id}-{str(d)[6:]}") for c in CASES for d in c.dtypes],
)
def test_case_table(case, dtype, name, device):
    require(name, device, case)
    check(case, name, dtype, device)


@pytest.mark.parametrize(("name", "device"), TARGETS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_inference_mode_changes_no_number(case, name, device):
    """There the kernels are called without torch's dispatcher."""
    require(name, device, case)
    arguments = case.arguments(torch.float32, device)
    with backend.use_backend(name):
        with torch.no_grad():
            want = getattr(ops, case.op)(**arguments)
        with torch.inference_mode():
            got = getattr(ops, case.op)(**arguments)
    torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.skipif(not backend.has_native(), reason="no native library in this process")
@pytest.mark.parametrize("instruction_set", native.INSTRUCTION_SETS)
def test_every_instruction_set_obeys_the_rule(instruction_set):
    with native.use_instruction_set(instruction_set) as runs:
        if not runs:
            pytest.skip(f"this processor has no {instruction_set}")
        assert native.instruction_set() == instruction_set
        for case in CASES:
            if "paper" not in case.name:
                for dtype in case.dtypes:
                    check(case, "native", dtype)


@pytest.mark.skipif(not backend.has_native(), reason="no native library in this process")
@pytest.mark.parametrize("instruction_set", native.INSTRUCTION_SETS)
def test_rows_that_bypass_the_caches_are_the_same(instruction_set):
    """Those of a large batch do, those of its parts do not."""
    made = adaln_arguments(44, 32, width=768)(torch.Generator().manual_seed(0))
    arguments = {name: value.float() for name, value in made.items()}
    parts = [
        {name: value[part : part + 11] if value.ndim == 3 else value for name, value in arguments.items()}
        for part in range(0, 44, 11)
    ]
    with native.use_instruction_set(instruction_set) as runs, poisoned_memory(), torch.inference_mode():
        if not runs:
            pytest.skip(f"this processor has no {instruction_set}")
        got = ops.adaln_residual(**arguments)
        want = [ops.adaln_residual(**part) for part in parts]
    for whole, *pieces in zip(got, *want, strict=True):
        torch.testing.assert_close(whole, torch.cat(pieces), rtol=0, atol=0)


@pytest.mark.parametrize("case", [c for c in SMALL if c.differentiable], ids=lambda case: case.id)
def test_reference_gradients_agree_with_finite_differences(case):
    arguments = case.arguments(torch.float64)
    names = [n for n, value in arguments.items() if isinstance(value, torch.Tensor) and value.requires_grad]

    def function(*values):
        outputs = getattr(reference, case.op)(**(arguments | dict(zip(names, values, strict=True))))
        return tuple(out for out in outputs if out is not None) if isinstance(outputs, tuple) else outputs

    assert torch.autograd.gradcheck(function, [arguments[name] for name in names])


class RecordedCalls(TorchDispatchMode):
    """The calls of our operators below a ``with`` block, with detached arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "ld4lg":
            self.calls.append((func, pytree.tree_map_only(torch.Tensor, lambda x: x.detach().clone(), args)))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "device"), TARGETS)
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
def test_operators_are_proper_torch_operators(case, name, device):
    require(name, device, case)
    with backend.use_backend(name), RecordedCalls() as recorded:
        run(getattr(ops, case.op), case.arguments(torch.float32, device))
    file = {"native": "cpu", "triton": "triton"}[name]
    is_operator = any(folder == case.op for folder, _ in IMPLEMENTATIONS.values())
    if not recorded.calls and not (is_operator and find_spec(f"ld4lg_fast.kernels.{case.op}.{file}")):
        pytest.skip("torch's own operators are this backend's choice")
    assert recorded.calls
    for operator, arguments in recorded.calls:
        if case.differentiable and "backward" not in operator.name():
            arguments = pytree.tree_map_only(
                torch.Tensor, lambda x: x.requires_grad_(x.is_floating_point()), arguments
            )
        results = torch.library.opcheck(operator, arguments)
        assert set(results.values()) == {"SUCCESS"}, f"{operator}: {results}"


@pytest.mark.skipif(backend.INTERPRETED, reason="compiled code and Triton's interpreter exclude each other")
@pytest.mark.parametrize(("name", "device"), [pytest.param("reference", "cpu", id="reference-cpu"), *TARGETS])
def test_whole_graph_compiles(name, device, tmp_path, monkeypatch):
    require(name, device, *SMALL)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled for an older schema
    # One graph of all operations: compiling is the slow part.
    cases = {case.op: case for case in SMALL if not case.name.startswith("small-")}
    arguments = {op: case.arguments(torch.float32, device) for op, case in cases.items()}

    def function(arguments):
        outputs = {op: getattr(ops, op)(**values) for op, values in arguments.items()}
        return {op: out if isinstance(out, tuple) else (out,) for op, out in outputs.items()}

    def gradients(function):
        leaves = [
            value
            for op, values in arguments.items()
            if cases[op].differentiable
            for value in values.values()
            if isinstance(value, torch.Tensor) and value.requires_grad
        ]
        outputs = function(arguments)
        wanted = [out for op, outs in outputs.items() if cases[op].differentiable for out in outs]
        upstream = [
            torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out) for out in wanted
        ]
        return outputs, torch.autograd.grad(wanted, leaves, upstream)

    with backend.use_backend(name):
        # The reference is plain PyTorch: only its graph is tested.
        compiler = "aot_eager" if name == "reference" else "inductor"
        compiled = torch.compile(function, fullgraph=True, backend=compiler)
        torch.testing.assert_close(gradients(compiled), gradients(function))


@pytest.mark.parametrize(("name", "device"), TARGETS)
def test_poisoned_memory_shows_an_element_that_was_left_out(name, device):
    require(name, device)
    with poisoned_memory():
        assert torch.empty(3, device=device).isnan().all()
        assert torch.zeros(2).new_empty(3).isnan().all()


@pytest.mark.parametrize(("name", "device"), TARGETS)
def test_dtypes_under_autocast(name, device):
    require(name, device)
    arguments = small_arguments(device=device)
    for key in ("h", "scale", "shift"):
        arguments[key] = arguments[key].bfloat16()
    with backend.use_backend(name), torch.autocast(device, torch.bfloat16):
        x, y = ops.adaln_residual(**arguments)
    assert (x.dtype, y.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"residual": torch.zeros(2, 8)}, r"residual has shape \(2, 8\); it needs h's, \(2, 3, 8\)"),
        ({"weight": torch.zeros(7)}, r"weight has shape \(7,\); it needs \(8,\)"),
        ({"next_bias": None}, "next_weight and next_bias come together"),
        ({"scale": torch.zeros(3, 1, 8)}, r"scale \(3, 1, 8\), shift \(2, 1, 8\) do not broadcast"),
        ({"shift": torch.zeros(4, 2, 1, 8)}, "do not broadcast"),
        ({"h": torch.zeros(2, 3, 0), "residual": torch.zeros(2, 3, 0)}, "at least one element"),
    ],
)
@pytest.mark.parametrize("name", ["reference", "auto"])
def test_shapes_that_do_not_fit_are_named(change, sentence, name):
    with backend.use_backend(name), pytest.raises(ValueError, match=sentence):
        ops.adaln_residual(**(small_arguments() | change))


def test_auto_falls_back_and_says_once_why(monkeypatch, caplog):
    monkeypatch.setitem(backend._missing, ON_CPU, "no such thing here")
    monkeypatch.setattr(backend, "_warned", set())
    with caplog.at_level(logging.WARNING, logger="ld4lg_fast.kernels"):
        for _ in range(2):
            got = ops.adaln_residual(**small_arguments())
    torch.testing.assert_close(got, reference.adaln_residual(**small_arguments()), rtol=0, atol=0)
    assert [record.getMessage().count("no such thing here") for record in caplog.records] == [1]


def test_a_backend_asked_for_by_name_runs_or_raises(monkeypatch):
    monkeypatch.setitem(backend._missing, "native", "no such thing here")
    with pytest.raises(backend.BackendUnavailableError, match="'native' is not available: no such thing"):
        backend.set_backend("native")
    assert backend.current_backend() == "auto"
    with pytest.raises(ValueError, match="unknown backend 'cuda'; choose one of auto, reference, native"):
        backend.set_backend("cuda")
    assert not backend.has_native()


def test_a_named_backend_refuses_what_it_cannot_take(monkeypatch):
    require(ON_CPU, "cpu")
    with backend.use_backend(ON_CPU):
        with pytest.raises(backend.BackendUnavailableError, match=r"and got torch\.float64"):
            ops.adaln_residual(**small_arguments(torch.float64))
        with pytest.raises(backend.BackendUnavailableError, match="these are on meta"):
            ops.adaln_residual(**small_arguments(device="meta"))
    x, y = ops.adaln_residual(**small_arguments(torch.float64))
    assert x.dtype == y.dtype == torch.float64
