"""Denoisers with packed weights in all precisions, and steps that are captured and replayed."""

import pytest
import torch
from torch import nn

from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.packed_weights import (
    PreparedFeedForward,
    PreparedLinear,
    prepared_denoiser,
    prepared_once,
)
from ld4lg_fast.engine.precision import Fp8Linear, PlainLinear, choose_linear, fp8_or_plain
from ld4lg_fast.engine.regional_compile import compile_regions, is_compiled
from ld4lg_fast.engine.sampling_run import SamplingRun
from ld4lg_fast.engine.step_table import Plan
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend
from ld4lg_fast.models.layers import GEGLUFeedForward
from tests.conftest import make_model
from tests.engine.test_engine import CLASSES, assert_near, make_v1

CPU = torch.device("cpu")
DIM = {"num_dense_connections": 1}
# Relative error of latents, from rounding to bf16 and to int8 in every matmul.
NEARLY = {"fp32": 1e-5, "bf16": 0.05, "fp16": 0.01, "int8": 0.2}


def scales_rows() -> bool:
    """Whether `torch._scaled_mm` supports row-wise scales on a CPU, as it does on a GPU."""
    matrix, scale = torch.zeros(16, 16).to(torch.float8_e4m3fn), torch.ones(16, 1)
    try:
        torch._scaled_mm(matrix, matrix.t(), scale, scale.t(), out_dtype=torch.bfloat16)
    except RuntimeError:
        return False
    return True


needs_scaled_rows = pytest.mark.skipif(
    not scales_rows(), reason="this torch has one scale for all rows on a CPU"
)


def relative_error(got: torch.Tensor, want: torch.Tensor) -> float:
    return ((got - want).norm() / want.norm()).item()


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("precision", list(NEARLY))
def test_every_precision_samples_nearly_the_same(precision, recipe):
    model = make_v1() if recipe == "v1" else make_model(num_classes=3, **DIM)
    options = {"sampler": "ddim", "num_inference_steps": 5, "seed": 7}
    if recipe == "v2":
        options |= CLASSES | {"guidance_scale": 2.0}
    want = sample_latents(model, 3, **options)
    got = sample_latents(model, 3, precision=precision, **options)
    assert got.dtype == torch.float32
    error = relative_error(got, want)
    assert error <= NEARLY[precision]
    assert precision == "fp32" or error > 1e-5, "the precision had no effect"


def test_an_int8_sample_does_not_depend_on_its_neighbours():
    model = make_model()
    runs = [
        sample_latents(model, 5, sampler="ddim", num_inference_steps=4, precision="int8", batch_size=size)
        for size in (1, 5)
    ]
    # An input that lies between two bytes may be rounded either way.
    assert relative_error(*runs) < 0.02


def test_a_prepared_denoiser_follows_its_weights_and_shares_the_others():
    model = make_model()
    denoiser = model.denoiser
    first = prepared_denoiser(denoiser, "fp32")
    assert prepared_denoiser(denoiser, "fp32") is first and prepared_denoiser(denoiser, "int8") is not first
    products = [module for module in first.blocks.modules() if isinstance(module, PreparedLinear)]
    assert products and not any(isinstance(module, nn.Linear) for module in first.blocks.modules())
    assert first.norm is model.denoiser.norm
    with torch.no_grad():
        model.denoiser.blocks[0].attn.qkv.weight.mul_(2)
    assert prepared_denoiser(denoiser, "fp32") is not first
    want = sample_latents(model, 2, sampler="ddim", num_inference_steps=3)
    with torch.no_grad():
        model.denoiser.blocks[0].attn.qkv.weight.div_(2)
    assert relative_error(sample_latents(model, 2, sampler="ddim", num_inference_steps=3), want) > 1e-3


def test_what_is_prepared_goes_with_its_model():
    module, made = nn.Linear(2, 2), []
    for _ in range(2):
        prepared_once(module, "key", lambda: made.append(1))
    assert made == [1]


@pytest.mark.parametrize(
    ("precision", "reason"),
    [
        ("int4", "Unknown precision 'int4'; choose one of fp32"),
        ("fp8", "precision=fp8 cannot be had here: it needs a GPU, not cpu"),
        ("tf32", "precision=tf32 cannot be had here: it needs a GPU, not cpu"),
    ],
)
def test_precisions_that_are_not_there_are_refused(precision, reason):
    with pytest.raises(ConfigError, match=reason):
        sample_latents(make_model(), 1, num_inference_steps=1, precision=precision)


def test_int8_needs_a_cpu_and_the_library(monkeypatch):
    with pytest.raises(ConfigError, match="int8 matmuls need a CPU, not cuda"):
        choose_linear("int8", torch.float32, torch.device("cuda"))
    monkeypatch.setitem(backend._missing, "native", "the C++ library was not built")
    with pytest.raises(
        ConfigError, match="precision=int8 cannot be had here: the C\\+\\+ library was not built"
    ):
        choose_linear("int8", torch.float32, CPU)


@needs_scaled_rows
def test_fp8_products():
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(9, 64, generator=generator, dtype=torch.bfloat16)
        * torch.logspace(-3, 3, 9)[:, None].bfloat16()
    )
    weight = torch.randn(32, 64, generator=generator, dtype=torch.bfloat16)
    bias, residual = torch.randn(2, 9, 32, generator=generator, dtype=torch.bfloat16)
    product = Fp8Linear(weight, bias[0])
    want = nn.functional.linear(x.float(), weight.float(), bias[0].float()) + residual.float()
    got = product(x, residual.clone()).float()
    assert ((got - want).norm(dim=1) <= 0.05 * want.norm(dim=1)).all(), "every row has a scale of its own"
    assert isinstance(fp8_or_plain(weight[:30], None), PlainLinear)


@needs_scaled_rows
def test_a_feed_forward_of_fp8_products():
    torch.manual_seed(0)
    plain, x = GEGLUFeedForward(64), torch.randn(3, 5, 64)
    want = plain(x)
    got = PreparedFeedForward(plain.bfloat16(), fp8_or_plain)(x.bfloat16())
    assert got.dtype == torch.bfloat16 and relative_error(got.float(), want) < 0.06


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0), ("dpmpp_2m", 0), ("unipc", 0), ("ddim", 0.5)])
def test_captured_steps_give_the_same_samples(sampler, eta, monkeypatch):
    """With a stand-in for `Capture` that records the function and runs it on replay."""
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", lambda _, run: run)
    monkeypatch.setattr("ld4lg_fast.engine.sampling_run.TABLE_ELEMENTS", 3 * 4 * 2 * 64 * 2)  # three steps
    model, ids = make_model(num_classes=3), torch.arange(3)
    plan = Plan(sampler, 9, guidance_scale=2.0, guidance_interval=(0.3, 0.8), eta=eta)
    runs = []
    for cuda_graph in (False, True):
        run = SamplingRun(model, plan, seed=1, classes=CLASSES["class_id"])
        run.cuda_graph, seen = cuda_graph, []
        for _ in range(2):
            final = run(ids, class_id=CLASSES["class_id"], callback=lambda step, x, seen=seen: seen.append(x))
        runs.append((final, *seen))
    for plain, replayed in zip(*runs, strict=True):
        assert_near(replayed, plain)


def test_what_is_captured_has_run_before_in_its_shapes(monkeypatch):
    """Recipe v1 starts without a self-condition, so its first step has other shapes than the rest."""
    ran = []

    def advance(guided, step, x):
        ran.append((guided, x.shape))
        return (torch.zeros(2, 3),)

    def capture(_, run):
        earlier = list(ran)
        run()
        assert ran[-1] in earlier
        return run

    monkeypatch.setattr(cuda_graphs.Capture, "__call__", capture)
    steps, state = cuda_graphs.GraphedSteps(advance), (torch.zeros(2, 1),)
    for number, guided in enumerate((False, False, True, True)):
        state = steps(guided, torch.tensor(number), *state)
    assert ran.count((False, (2, 1))) == 1


def test_a_cuda_graph_needs_a_gpu():
    with pytest.raises(ConfigError, match="cuda_graph=true needs a GPU, not cpu"):
        sample_latents(make_model(), 1, num_inference_steps=1, cuda_graph=True)


def test_a_compiled_denoiser_is_compiled_in_another_precision():
    denoiser = make_model().denoiser
    plain = prepared_denoiser(denoiser, "fp16")
    compile_regions(denoiser)
    again = prepared_denoiser(denoiser, "fp16")
    assert (is_compiled(plain), is_compiled(again)) == (False, True)
    assert not is_compiled(prepared_denoiser(denoiser, "fp32")), "whose products are not torch's own"


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "fp8"])
def test_replayed_steps_on_a_gpu(precision, recipe, compiled):
    model = (make_v1(num_classes=3) if recipe == "v1" else make_model(num_classes=3)).cuda()
    torch.compiler.reset()
    if compiled:
        compile_regions(model.denoiser)
    options = {
        "sampler": "ddpm",
        "num_inference_steps": 20,
        "guidance_scale": 2.0,
        "class_id": 1,
        "lengths": torch.tensor([6, 4, 6, 3, 5]) if recipe == "v1" else None,
        "precision": precision,
    }
    # The first run compiles for all the shapes that there are.
    _, eager, replayed = (
        sample_latents(model, 5, cuda_graph=graph, **options) for graph in (False, False, True)
    )
    assert torch.equal(eager, replayed)
    exact = sample_latents(model, 5, **options | {"precision": "fp32"})
    assert relative_error(replayed, exact) < (1e-6 if precision == "fp32" else 0.5)
