"""The operations in every backend, over the case table of kernels/testing.py.

``pytest -m gpu`` runs the same table on a GPU, tests/test_triton_interpreter.py in Triton's interpreter.
"""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.kernels import backend, native, ops, reference
from ld4lg_fast.kernels.testing import CASES, adaln_arguments, check, poisoned_memory, run

ON_CPU = "triton" if backend.INTERPRETED else "native"
TARGETS = [
    pytest.param(ON_CPU, "cpu", id=f"{ON_CPU}-cpu"),
    pytest.param("triton", "cuda", id="triton-cuda", marks=pytest.mark.gpu),
]
ADALN_OPS = {True: "adaln_residual_norm", False: "adaln_residual"}


def require(name: str, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
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
    require(name, device)
    check(case, name, dtype, device)


@pytest.mark.skipif(not backend.has_native(), reason="no native library in this process")
@pytest.mark.parametrize("instruction_set", native.INSTRUCTION_SETS)
def test_every_instruction_set_obeys_the_rule(instruction_set):
    with native.use_instruction_set(instruction_set) as runs:
        if not runs:
            pytest.skip(f"this processor has no {instruction_set}")
        assert native.instruction_set() == instruction_set
        for case in CASES:
            if case.op == "adaln_residual":
                for dtype in case.dtypes:
                    check(case, "native", dtype)


@pytest.mark.parametrize("next_norm", [True, False])
@pytest.mark.parametrize("modulation", [(2, 1), (2, 3), ()])
def test_reference_gradients_agree_with_finite_differences(next_norm, modulation):
    arguments = small_arguments(torch.float64, requires_grad=True, next_norm=next_norm, modulation=modulation)
    names = [name for name, value in arguments.items() if value is not None]

    def function(*values):
        outputs = reference.adaln_residual(**(arguments | dict(zip(names, values, strict=True))))
        return tuple(out for out in outputs if out is not None)

    assert torch.autograd.gradcheck(function, [arguments[name] for name in names])


@pytest.mark.parametrize(("name", "device"), TARGETS)
@pytest.mark.parametrize("next_norm", [True, False])
def test_adaln_residual_is_a_proper_torch_operator(name, device, next_norm):
    require(name, device)
    arguments = small_arguments(device=device, requires_grad=True, next_norm=next_norm)
    values = [value for value in arguments.values() if value is not None]
    op = getattr(torch.ops.ld4lg, ADALN_OPS[next_norm]).default
    assert set(torch.library.opcheck(op, (*values, 1e-5)).values()) == {"SUCCESS"}

    detached = {key: None if value is None else value.detach() for key, value in arguments.items()}
    outputs = op(*(value for value in detached.values() if value is not None), 1e-5)
    x, stats = outputs[0], outputs[-1]
    grads = [torch.randn_like(x), torch.randn_like(x) if next_norm else None]
    inputs = [detached[key] for key in ("weight", "scale", "next_weight")]
    saved = (*grads, detached["h"], x if next_norm else None, *inputs, stats)
    backward = torch.ops.ld4lg.adaln_residual_backward.default
    assert set(torch.library.opcheck(backward, saved).values()) == {"SUCCESS"}


@pytest.mark.parametrize(("name", "device"), TARGETS)
def test_philox_normal_is_a_proper_torch_operator(name, device):
    require(name, device)
    arguments = (3, torch.arange(4, device=device), 1, [3, 5])
    results = torch.library.opcheck(torch.ops.ld4lg.philox_normal.default, arguments)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.skipif(backend.INTERPRETED, reason="compiled code and Triton's interpreter exclude each other")
@pytest.mark.parametrize(("name", "device"), [pytest.param("reference", "cpu", id="reference-cpu"), *TARGETS])
def test_whole_graph_compiles(name, device, tmp_path, monkeypatch):
    require(name, device)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled for an older schema
    arguments = small_arguments(device=device, requires_grad=True)
    ids = torch.arange(3, device=device)

    def function(**kwargs):
        return *ops.adaln_residual(**kwargs), ops.philox_normal(7, ids, 2, (4, 3))

    def differentiable(function):
        return lambda **kwargs: function(**kwargs)[:2]

    with backend.use_backend(name):
        # The reference is plain PyTorch: that its graph is whole is all there is to show.
        compiler = "aot_eager" if name == "reference" else "inductor"
        compiled = torch.compile(function, fullgraph=True, backend=compiler)
        torch.testing.assert_close(compiled(**arguments), function(**arguments))
        got = run(differentiable(compiled), arguments).gradients
        want = run(differentiable(function), arguments).gradients
    torch.testing.assert_close(got, want)


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


def philox_words(counter: int, key: int) -> list[int]:
    words = reference.philox4x32([torch.tensor([counter])] * 4, [key, key])
    return [int(word) for word in words]


def test_philox_gives_the_known_answers():
    # kat_vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds.
    assert philox_words(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox_words(0xFFFFFFFF, 0xFFFFFFFF) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    digits_of_pi = [torch.tensor([word]) for word in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    words = reference.philox4x32(digits_of_pi, [0xA4093822, 0x299F31D0])
    assert [int(word) for word in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("name", ["reference", "auto"])
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    size=st.integers(1, 23),
)
def test_a_sample_draws_the_same_noise_in_any_batch(name, seed, stream, ids, size):
    with backend.use_backend(name):
        together = ops.philox_normal(seed, torch.tensor(ids), stream, (size,))
        alone = torch.cat([ops.philox_normal(seed, torch.tensor([i]), stream, (size,)) for i in ids])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reference", "auto"])
def test_philox_normal_is_normal_and_its_streams_differ(name):
    with backend.use_backend(name):
        first = ops.philox_normal(1, torch.arange(64), 0, (1024,))
        others = [
            ops.philox_normal(2, torch.arange(64), 0, (1024,)),
            ops.philox_normal(1, torch.arange(64), 1, (1024,)),
            ops.philox_normal(1, torch.arange(64) + 64, 0, (1024,)),
        ]
    count = first.numel()
    moments = [(first**power).mean().item() for power in (1, 2, 3, 4)]
    deviations = [1, 2**0.5, 15**0.5, 96**0.5]
    for moment, want, deviation in zip(moments, [0, 1, 0, 3], deviations, strict=True):
        assert abs(moment - want) < 4 * deviation / count**0.5
    pairs = [(first, other) for other in others] + [(first[:, 0::2], first[:, 1::2])]
    for a, b in pairs:
        assert abs((a * b).mean().item()) < 4 / a.numel() ** 0.5


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


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"stream": 2**32}, "stream is"),
        ({"sample_ids": torch.zeros(2, 2, dtype=torch.int64)}, r"of shape \(2, 2\); it needs one axis"),
        ({"sample_ids": torch.zeros(2)}, "torch.float32 of shape"),
    ],
)
def test_philox_arguments_out_of_range_are_named(change, sentence):
    arguments = {"seed": 0, "sample_ids": torch.arange(2), "stream": 0, "shape": (2,)}
    with pytest.raises(ValueError, match=sentence):
        ops.philox_normal(**(arguments | change))


def test_auto_falls_back_and_says_once_why(monkeypatch, caplog):
    monkeypatch.setitem(backend._missing, ON_CPU, "no such thing here")
    monkeypatch.setattr(backend, "_told", set())
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
