"""Random shapes, strides and spoiled arguments for every operation, the same in every run.

scripts/sanitize_kernels.py runs them with the C++ library under AddressSanitizer and UndefinedBehaviorSanitizer.
"""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.kernels import backend, native, ops
from ld4lg_fast.kernels.adaln_residual.cases import adaln_arguments
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.kernels.geglu.cases import geglu_arguments
from ld4lg_fast.kernels.geglu_linear.cases import geglu_linear_arguments
from ld4lg_fast.kernels.linear_cross_entropy.cases import loss_arguments
from ld4lg_fast.kernels.logits_process.cases import logits_arguments
from ld4lg_fast.kernels.philox_normal.cases import philox_arguments
from ld4lg_fast.kernels.sampler_step.cases import STATE, step_arguments
from ld4lg_fast.kernels.short_attention.cases import attention_arguments
from ld4lg_fast.kernels.testing import OpCase, check
from tests.kernels.kernel_calls import EVERYWHERE, ON_A_CPU, call, valid_arguments

pytestmark = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")

WIDTHS = (1, 2, 3, 5, 8, 13, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 129, 200)
ROWS = (0, 1, 1, 2, 3, 4, 7, 9, 17)
FLOATS = (torch.float32, torch.bfloat16)


def spread(values: Tensor, chance: random.Random) -> Tensor:
    """The same numbers as a view: with gaps, with an odd offset, with permuted strides, or unchanged."""
    match chance.randrange(4):
        case 0:
            gaps = [size + chance.randrange(3) for size in values.shape]
            room = torch.empty(gaps, dtype=values.dtype)
            view = room[tuple(slice(gap - size, gap) for gap, size in zip(gaps, values.shape, strict=True))]
        case 1:
            view = torch.empty(values.numel() + 1, dtype=values.dtype)[1:].view(values.shape)
        case 2 if values.ndim > 1:
            axes = chance.sample(range(values.ndim), values.ndim)
            back = [axes.index(axis) for axis in range(values.ndim)]
            return values.permute(axes).contiguous().permute(back)
        case _:
            return values
    return view.copy_(values)


class SpreadCase(OpCase):
    """A case with tensors that are views of any kind."""

    def arguments(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> dict[str, object]:
        chance = random.Random(self.name)
        made = super().arguments(dtype, device, seed)
        return {
            name: spread(value.detach(), chance).requires_grad_(value.requires_grad)
            if isinstance(value, Tensor)
            else value
            for name, value in made.items()
        }


def random_arguments(op: str, chance: random.Random) -> Callable:
    """A function that makes the arguments of a call of random size."""
    rows, width, coin = chance.choice(ROWS), chance.choice(WIDTHS), lambda: chance.random() < 0.5
    lead = (rows, chance.choice(ROWS))[: chance.randint(1, 2)]
    dropout = chance.choice((0.0, 0.0, 0.1, 0.9))
    match op:
        case "adaln_residual":
            modulation = chance.choice((None, lead, (1,) * len(lead)))
            width = max(width, 2)  # a single number has no variance
            return adaln_arguments(
                *lead, width=width, modulation=modulation, next_norm=coin(), strided=coin()
            )
        case "geglu":
            return geglu_arguments(*lead, width=width, dropout=dropout, strided=coin())
        case "geglu_linear":
            return geglu_linear_arguments(*lead, inner=width, width=chance.choice(WIDTHS), dropout=dropout)
        case "linear_cross_entropy":
            rows = max(rows, 1)
            ignored = (
                0.3 if rows > 8 else 0.0
            )  # the targets of few rows might all be ignored, which leaves no mean
            return loss_arguments(
                rows, width=width, vocabulary=chance.choice(WIDTHS), bias=coin(), ignored=ignored
            )
        case "logits_process":
            vocabulary, tokens = chance.choice((*WIDTHS, 1031)), chance.randint(1, 20)
            length = chance.randrange(tokens)
            rules = {
                "min_length": chance.choice((0, 5, 100)),
                "repetition_penalty": chance.choice((1.0, 1.2, 0.8)),
                "no_repeat_ngram_size": chance.choice((0, 1, 2, 3, tokens, 10**18)),
                "normalize": coin(),
                "temperature": chance.choice((1.0, 0.5, 3.0)),
                "top_k": chance.choice(
                    (0, 0, 1, vocabulary, vocabulary + 1, 10**18, chance.randint(1, vocabulary))
                ),
            }
            forced = chance.choice((None, None, chance.randrange(vocabulary)))
            return logits_arguments(
                rows, vocabulary, tokens, length, forced=forced, strided=coin(), num_eos=1, **rules
            )
        case "philox_normal":
            ids = [chance.randrange(-(2**63), 2**63) for _ in range(rows)]
            shape = tuple(chance.choice((0, 1, 3, 7, 64, 65)) for _ in range(chance.randint(0, 2)))
            return philox_arguments(ids, shape, chance.randrange(2**64), chance.randrange(2**32))
        case "sampler_step":
            options = {
                name: coin() for name in ("guided", "history", "noisy", "self_condition", "strided", "each")
            }
            return step_arguments(rows, chance.choice(ROWS), width, **options)
        case "short_attention":
            rows, heads = max(rows, 1), chance.randint(1, 3)
            queries, keys = (chance.choice((1, 2, 5, 31, 32, 33, 65, 128)) for _ in range(2))
            bias = chance.choice((None, (1,), (heads,), (rows, 1), (rows, heads)))
            return attention_arguments(rows, queries, heads, keys=keys, rms=coin(), bias=bias)
    raise KeyError(op)


TABLE_OPS = (
    "adaln_residual",
    "geglu",
    "geglu_linear",
    "linear_cross_entropy",
    "logits_process",
    "philox_normal",
    "sampler_step",
    "short_attention",
)


@pytest.fixture(params=native.INSTRUCTION_SETS)
def variant(request):
    """Each instruction set of this processor in turn, which the C++ library then uses."""
    with native.use_instruction_set(request.param) as there:
        if not there:
            pytest.skip(f"this processor has no {request.param}")
        yield request.param


@pytest.mark.parametrize("op", TABLE_OPS)
def test_any_shape_and_stride_is_computed_right(op, variant):
    """Forward and backward, by the accuracy rule of all kernels."""
    for trial in range(25):
        chance = random.Random(f"{op} {variant} {trial}")
        differentiable = op in ("adaln_residual", "geglu", "short_attention", "linear_cross_entropy")
        keep = STATE if op == "sampler_step" else frozenset()
        make = random_arguments(op, chance)
        case = SpreadCase(op, f"{variant} {trial}", make, keep=keep, differentiable=differentiable)
        dtype = torch.float32 if op == "philox_normal" else chance.choice(FLOATS)
        check(case, "native", dtype, times=8)  # the largest of a few rounding errors varies


def test_any_linear_layer_is_computed_right(variant):
    generator = torch.Generator().manual_seed(3)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for trial in range(60):
        chance = random.Random(f"{variant} {trial}")
        rows, inputs, outputs = chance.choice(ROWS), chance.choice(WIDTHS), 2 * chance.choice(WIDTHS)
        weight, bias = spread(randn(outputs, inputs), chance), spread(randn(outputs), chance)
        x, residual = spread(randn(rows, inputs), chance), spread(randn(rows, outputs), chance)
        want = F.linear(x, weight, bias)
        size = 1 + want.abs()
        assert ((ops.PackedLinear(weight, bias)(x, residual) - residual - want).abs() <= 1e-5 * size).all()
        gated = want[:, : outputs // 2] * F.gelu(want[:, outputs // 2 :])
        for dtype in (torch.bfloat16, torch.int8):
            rough = 0.2 * inputs**0.5 + 0.02 * size
            assert ((ops.NarrowLinear(weight, bias, dtype)(x) - want).abs() <= rough).all()
            got = ops.NarrowLinear(weight, bias, dtype, geglu=True)(x.bfloat16())
            assert got.shape == gated.shape and got.isfinite().all()


def test_any_merged_linears_are_computed_right(variant):
    generator = torch.Generator().manual_seed(4)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    for trial in range(60):
        chance = random.Random(f"{variant} {trial}")
        rows, inputs, outputs = chance.choice(ROWS), chance.choice(WIDTHS), chance.choice(WIDTHS)
        glu = chance.choice((None, None, "silu", "gelu_pytorch_tanh"))
        sizes = [outputs] * 2 if glu else [chance.choice(WIDTHS) for _ in range(chance.randint(1, 3))]
        dtype = chance.choice(FLOATS)
        weights = [spread(randn(size, inputs).to(dtype), chance) for size in sizes]
        biases = [chance.choice((None, spread(randn(size), chance))) for size in sizes]
        residual = chance.choice((None, spread(randn(rows, outputs if glu else sum(sizes)), chance)))
        x, merged = spread(randn(rows, inputs), chance), ops.MergedLinear(weights, biases, glu)
        with use_backend("reference"):
            want = merged(x, residual)
        torch.testing.assert_close(merged(x, residual), want, rtol=1e-4, atol=1e-4)


def test_any_rms_norm_is_computed_right(variant):
    generator = torch.Generator().manual_seed(6)
    for trial in range(40):
        chance = random.Random(f"{variant} {trial}")
        rows, width, groups = chance.choice(ROWS), chance.choice(WIDTHS), chance.randint(1, 3)
        x = spread(torch.randn(rows, groups * width, generator=generator), chance)
        weight = spread(torch.randn(width, generator=generator), chance)
        with use_backend("reference"):
            want = ops.rms_norm(x.double(), weight.double(), 1e-5)
        torch.testing.assert_close(ops.rms_norm(x, weight, 1e-5).double(), want, rtol=1e-5, atol=1e-6)


def test_attention_over_any_cache_is_computed_right(variant):
    generator = torch.Generator().manual_seed(5)
    for trial in range(60):
        chance = random.Random(f"{variant} {trial}")
        sentences, beams, heads = (
            chance.choice((0, 1, 2, 3)),
            chance.choice((1, 2, 4)),
            chance.choice((1, 2)),
        )
        capacity, slots, width = (
            chance.choice((1, 5, 17)),
            chance.choice((1, 3)),
            chance.choice((1, 5, 16, 64, 65)),
        )
        span = chance.randint(1, capacity)
        keys, values = torch.randn(2, sentences, heads, capacity, slots, width, generator=generator)
        query = spread(torch.randn(sentences * beams, heads * width, generator=generator), chance)
        chosen = torch.randint(slots, (sentences, beams, capacity), generator=generator)
        chosen[:, :, span:] = -1
        shape = chance.choice(((1, 1), (sentences, 1), (sentences, heads)))
        bias = spread(torch.randn(*shape, capacity, generator=generator), chance)
        got = ops.cached_attention(query, keys, values, span, 0.5, chosen, bias)
        index = chosen[:, :, None, :span, None, None].expand(-1, -1, heads, -1, -1, width)

        def own(cache: Tensor, index: Tensor = index, beams: int = beams) -> Tensor:
            return (
                cache[:, None, :, : index.shape[3]]
                .expand(-1, beams, -1, -1, -1, -1)
                .gather(4, index)[..., 0, :]
            )

        scores = torch.einsum("swhk,swhtk->swht", query.view(sentences, beams, heads, width), own(keys))
        weights = (0.5 * scores + bias[:, None, :, :span]).softmax(-1)
        want = torch.einsum("swht,swhtk->swhk", weights, own(values)).reshape(got.shape)
        torch.testing.assert_close(got, want)


def spoil(value: object, chance: random.Random) -> object:
    """Another value in place of an argument."""
    if not isinstance(value, Tensor):
        numbers = (-1, 0, 1, 7, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30, 1.5)
        numbers += (float("nan"), float("inf"), -1e300, 1e-300, True, (0,), (2**20, 2**20), (-1, 3))
        return chance.choice(numbers)
    match chance.randrange(7):
        case 0:
            return value.to(
                chance.choice((torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int64))
            )
        case 1:
            return value[None] if chance.random() < 0.5 or not value.ndim else value[0]
        case 2 if value.ndim:
            axis = chance.randrange(value.ndim)
            return value.narrow(axis, 0, chance.randrange(value.shape[axis]))
        case 3 if value.ndim:
            return torch.cat([value, value], chance.randrange(value.ndim))
        case 4 if value.dtype == torch.int64:
            value = value.clone()
            value.view(-1)[chance.randrange(value.numel())] = chance.choice(
                (-1, -100, 11, 1000, 10**9, 2**62, -(2**63), 2**63 - 1)
            )
            return value
        case 5 if value.is_floating_point():
            value = value.clone()
            value.view(-1)[chance.randrange(value.numel())] = chance.choice(
                (float("nan"), float("inf"), -1e38, 1e-40)
            )
            return value
        case 6 if value.ndim > 1:
            return value.mT
    return spread(value, chance)


@pytest.mark.parametrize("op", [*EVERYWHERE, *ON_A_CPU])
def test_spoiled_arguments_are_refused_by_all_backends_or_by_none(op):
    refusals = (ValueError, IndexError, TypeError)

    def outcome(name: str, arguments: dict[str, object]) -> object:
        try:
            with use_backend(name):
                results = call(op)(**arguments)
        except refusals as error:
            return f"{type(error).__name__}: {error}"
        return [(r.shape, r.dtype) for r in (results if isinstance(results, tuple) else (results,))]

    for trial in range(300):
        chance = random.Random(f"{op} {trial}")
        arguments = valid_arguments(op, trial)
        for name in chance.sample(list(arguments), chance.choice((1, 1, 2))):
            arguments[name] = spoil(arguments[name], chance)
        got = outcome("auto", arguments)
        if op in EVERYWHERE:
            assert got == outcome("reference", arguments), f"trial {trial}"
