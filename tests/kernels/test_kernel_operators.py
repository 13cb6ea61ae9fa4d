"""``torch.ops.ld4lg`` called directly, with arguments and indices that the public functions refuse."""

import subprocess
import sys

import pytest
import torch

from ld4lg_fast.kernels import backend, native, ops
from ld4lg_fast.kernels.logits_process import arguments as logits_process
from ld4lg_fast.kernels.sampler_step import arguments as sampler_step
from tests.kernels.kernel_calls import spoiled, valid_arguments
from tests.kernels.spoiled_arguments import IDS, at

needs_library = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")

OPERATORS = {  # invalid arguments of torch.ops.ld4lg, with the error they raise
    "logits_process": [
        ("ids", at(IDS, 10**12), IndexError),
        ("length", torch.tensor([10**12]), IndexError),
        ("eos", torch.tensor([-(10**9)]), IndexError),
        ("forced", torch.full((6,), 10**12), IndexError),
        ("ids", torch.zeros(3, 6, dtype=torch.int8), ValueError),
        ("forced", torch.full((1,), -1), ValueError),
        ("top_p", 1e-300, ValueError),
    ],
    "sampler_step": [
        ("step", torch.tensor(-(10**12)), IndexError),
        ("first", torch.tensor([10**12, 0]), IndexError),
        ("x_prev", torch.zeros(1), ValueError),
        ("coefficients", torch.zeros(1, 1), ValueError),
        ("sample_ids", torch.zeros(1, dtype=torch.int8), ValueError),
    ],
    "philox_normal": [("sample_ids", torch.zeros(2), ValueError), ("shape", [-3], ValueError)],
    "geglu": [
        ("bias", torch.zeros(2), ValueError),
        ("seed", None, ValueError),
        ("projected", torch.zeros(3, 8).double(), ValueError),
    ],
    "geglu_backward": [("grad", torch.zeros(1, 4), ValueError), ("bias", torch.zeros(2), ValueError)],
    "geglu_linear": [
        ("weight", torch.zeros(8, 500), ValueError),
        ("x", torch.zeros(3, 5).bfloat16(), ValueError),
        ("bias", torch.zeros(1), ValueError),
    ],
    "adaln_residual": [
        ("scale", torch.zeros(1, 8), ValueError),
        ("scale", torch.zeros(5, 8), ValueError),
        ("weight", torch.zeros(1), ValueError),
        ("residual", torch.zeros(1, 8), ValueError),
        ("h", torch.zeros(2, 3, 8).half(), ValueError),
    ],
    "adaln_residual_backward": [
        ("stats", torch.zeros(1), ValueError),
        ("grad_y", torch.zeros(1, 8), ValueError),
        ("x", torch.zeros(2, 3, 8).bfloat16(), ValueError),
        ("scale", torch.zeros(7, 8), ValueError),
        ("next_weight", None, ValueError),
    ],
    "short_attention": [
        ("bias", torch.zeros(1), ValueError),
        ("k", torch.zeros(2, 5, 64).bfloat16(), ValueError),
        ("v", torch.zeros(2, 1, 64), ValueError),
        ("q_gain", torch.zeros(1), ValueError),
    ],
    "short_attention_backward": [("grad", torch.zeros(1), ValueError), ("bias", torch.zeros(1), ValueError)],
}


def operator_arguments(name: str) -> dict[str, object]:
    """The arguments that the public function passes to the operator."""
    schema = getattr(torch.ops.ld4lg, name).default._schema
    values = valid_arguments(name.removesuffix("_backward"))
    if name == "short_attention" or name == "short_attention_backward":
        values["bias"] = values["bias"].expand(2, 1, 3, 5)
        values["grad"] = torch.zeros(2, 3, 64)
    if name == "adaln_residual_backward":
        values |= {"grad_x": torch.zeros(2, 3, 8), "grad_y": torch.zeros(2, 3, 8), "x": torch.zeros(2, 3, 8)}
        values["stats"] = torch.zeros(4, 6)
    if name == "geglu_backward":
        values["grad"] = torch.zeros(3, 4)
    if name == "philox_normal":
        values["shape"] = list(values["shape"])
    defaults = {"normalize": False, "self_condition": True, "eps": 1e-5, "seed": None, "dropout": 0.0}
    return {argument.name: (defaults | values)[argument.name] for argument in schema.arguments}


@pytest.mark.skipif(backend.INTERPRETED or not backend.has_native(), reason="needs the C++ library")
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_refuse_invalid_arguments(name):
    operator, valid = getattr(torch.ops.ld4lg, name), operator_arguments(name)
    operator(*valid.values())
    for argument, change, error in OPERATORS[name]:
        value = change(valid[argument]) if callable(change) else change
        with pytest.raises(error):
            operator(*(valid | {argument: value}).values())


def test_a_dtype_that_the_library_does_not_know_is_named():
    with pytest.raises(
        ValueError, match="the C\\+\\+ library takes torch.float32, torch.bfloat16, and got torch.float64"
    ):
        native.describe(torch.zeros(2, 2).double(), 2)


UNSEEN = [  # not checked on a GPU, where kernels and reference treat them alike
    ("ids", at(IDS, 11)),
    ("ids", at(IDS, -5)),
    ("ids", at((2, 2), 2**40)),
    ("length", torch.tensor([-3])),
    ("length", torch.tensor([99])),
    ("eos", torch.tensor([2, 10**9, -1])),
    ("forced", torch.full((6,), 11)),
    ("forced", torch.full((6,), -7)),
]


@pytest.mark.skipif(not backend.INTERPRETED, reason="the kernels of a GPU run in Triton's interpreter alone")
@pytest.mark.parametrize(("argument", "change"), UNSEEN)
@pytest.mark.parametrize("size", [0, 1, 2, 10**15])
def test_triton_ignores_what_the_reference_ignores(argument, change, size):
    from ld4lg_fast.kernels.logits_process import reference as plain
    from ld4lg_fast.kernels.logits_process import triton as kernel

    arguments = spoiled("logits_process", argument, change)
    arguments |= {"no_repeat_ngram_size": size, "normalize": True, "top_k": 0, "top_p": 1.0}
    inputs = logits_process.Inputs(**arguments)
    torch.testing.assert_close(kernel.logits_process(*inputs), plain.logits_process(*inputs))


@pytest.mark.skipif(not backend.INTERPRETED, reason="the kernels of a GPU run in Triton's interpreter alone")
@pytest.mark.parametrize("step", [-1, 4, 2**40, -(2**40)])
def test_triton_takes_the_nearest_step(step):
    from ld4lg_fast.kernels.sampler_step import reference as plain
    from ld4lg_fast.kernels.sampler_step import triton as kernel

    arguments = spoiled("sampler_step", "step", torch.tensor(step)) | {"self_condition": True}
    inputs = sampler_step.Inputs(**arguments)
    torch.testing.assert_close(kernel.sampler_step(*inputs), plain.sampler_step(*inputs))


DEADLY = {  # calls that once crashed the process or wrote out of bounds
    "eos": "ops.logits_best(**texts(eos=torch.tensor([10**9])), min_length=5)",
    "negative eos": "ops.logits_best(**texts(eos=torch.tensor([-1])), min_length=5)",
    "forced": "ops.logits_process(**texts(forced=torch.full((6,), 10**9)))",
    "length": "ops.logits_process(**texts(length=torch.tensor([10**9])))",
    "ids": "ops.logits_process(**texts(ids=torch.full((3, 6), 10**9)), repetition_penalty=1.2)",
    "tiny top_p": "ops.logits_draw(**texts(), uniforms=torch.full((3,), 0.5).double(), top_p=1e-60)",
    "targets": "ops.linear_cross_entropy(torch.zeros(2, 4), torch.zeros(9, 4), torch.tensor([10**9, 0]))",
    "no classes": "ops.linear_cross_entropy(torch.zeros(2, 4), torch.zeros(0, 4), torch.zeros(2).long())",
    "chosen": "attend(torch.full((2, 3, 7), 10**12))",
    "step": "ops.sampler_step(z, z, None, torch.zeros(4, 7), torch.tensor(10**12))",
    "first": "ops.sampler_step(z, z, None, torch.zeros(4, 7), torch.tensor(0), first=torch.tensor([0, 10**12]))",
    "narrow input": "ops.NarrowLinear(torch.zeros(64, 4096), None, torch.int8)(torch.zeros(1, 1).expand(4096, 1))",
    "packed input": "ops.PackedLinear(torch.zeros(64, 4096), None)(torch.zeros(9, 2**20))",
    "no inputs": "[ops.NarrowLinear(torch.zeros(2, 0), None, torch.bfloat16)(torch.zeros(99, 0)) for _ in range(99)]",
    "other device": "ops.adaln_residual(h, h, w.to('meta'), w, h, h)",
}


@pytest.mark.skipif(backend.INTERPRETED or not backend.has_native(), reason="needs the C++ library")
def test_calls_that_once_crashed_are_refused():
    calls = "".join(
        f"try:\n    {call}\nexcept (ValueError, IndexError) as error:\n    print('refused', error)\n"
        f"else:\n    print('not refused: {name}')\n"
        for name, call in DEADLY.items()
    )
    program = f"""
import torch
from ld4lg_fast.kernels import ops
h, w, z = torch.zeros(2, 3, 8), torch.zeros(8), torch.zeros(2, 3, 5)
def texts(**changed):
    made = {{"logits": torch.zeros(3, 11), "ids": torch.zeros(3, 6).long(), "length": torch.tensor([4])}}
    return made | {{"eos": torch.tensor([2]), "forced": torch.full((6,), -1)}} | changed
def attend(chosen):
    keys = torch.zeros(2, 2, 7, 3, 4)
    return ops.cached_attention(torch.zeros(6, 8), keys, keys, 5, 0.5, chosen)
{calls}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert len(lines) == len(DEADLY) and all(line.startswith("refused") for line in lines), done.stdout


@needs_library
def test_a_weight_that_is_copied_to_be_packed_lives_until_it_is():
    """So large that the allocator returns its memory to the system at once."""
    weight = torch.randn(4608, 4096, generator=torch.Generator().manual_seed(0)).bfloat16().t()
    x = torch.randn(2, 4608, generator=torch.Generator().manual_seed(1))
    got = ops.NarrowLinear(weight, None, torch.bfloat16)(x)
    assert torch.equal(got, ops.NarrowLinear(weight.contiguous(), None, torch.bfloat16)(x))


@needs_library
def test_a_nan_stays_in_its_row_of_int8():
    linear = ops.NarrowLinear(torch.randn(32, 40), None, torch.int8)
    x = torch.randn(3, 40)
    want = linear(x)
    for place in (0, 39):
        x[1, place] = float("nan")
        got = linear(x)
        assert got[1].isnan().all() and torch.equal(got[::2], want[::2])
    tiny = torch.full((1, 40), 1e-40)
    assert linear(tiny).abs().max() < 1e-30


@needs_library
def test_a_library_of_another_version_is_not_called(monkeypatch):
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    library, reason = native._load()
    assert library is None and "was built for another version; reinstall ld4lg-fast" in reason
