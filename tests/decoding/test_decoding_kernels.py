"""The C++ parts of a decoding step: attention over the cache, and the best tokens under the rules."""

import pytest
import torch
from torch.nn import functional as F

from ld4lg_fast.kernels import backend, native, ops
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.kernels.case_table import CASES

needs_library = pytest.mark.skipif(
    backend.unavailable_reason("native") is not None, reason="needs the C++ library"
)
RULES = [case for case in CASES if case.op == "logits_process" and case.name != "no-rows"]


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [64, 12, 5])
@pytest.mark.parametrize(
    ("beams", "slots"), [(4, 4), (4, 1), (1, 1)], ids=["own keys", "shared keys", "one beam"]
)
@pytest.mark.parametrize("bias_shape", [None, (1, 3), (2, 1)])
def test_cached_attention(variant, width, beams, slots, bias_shape):
    """Against float64 attention over each text's own keys; positions beyond the span are NaN."""
    sentences, heads, capacity, span = 2, 3, 9, 7
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(sentences * beams, 3 * heads * width, generator=generator)[:, : heads * width]
    keys, values = torch.randn(2, sentences, heads, capacity, slots, width, generator=generator).unbind(0)
    keys[:, :, span:] = values[:, :, span:] = float("nan")
    chosen = None
    places = torch.zeros(sentences, beams, capacity, dtype=torch.int64)
    if slots > 1:
        chosen = places = torch.randint(slots, (sentences, beams, capacity), generator=generator)
    bias = None if bias_shape is None else torch.randn(*bias_shape, capacity, generator=generator)[..., :span]
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        got = ops.cached_attention(query, keys, values, span, 0.3, chosen, bias)

    def own(cache):
        """(S, W, H, span, K)"""
        index = places[:, :, None, :, None, None].expand(-1, -1, heads, -1, -1, width)
        return cache[:, None].expand(-1, beams, -1, -1, -1, -1).gather(4, index)[:, :, :, :span, 0]

    def attention(dtype):
        mask = None if bias is None else bias[:, None, :, None].to(dtype)
        q = query.reshape(sentences, beams, heads, 1, width).to(dtype)
        out = F.scaled_dot_product_attention(q, own(keys).to(dtype), own(values).to(dtype), mask, scale=0.3)
        return out.reshape(sentences * beams, heads * width)

    exact = attention(torch.float64)
    slack = 2 * (attention(torch.float32) - exact).abs().max() + 1e-6
    assert got.shape == exact.shape and (got - exact).abs().max() <= slack


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("width", [64, 12, 6])
@pytest.mark.parametrize(("beams", "groups"), [(1, 3), (3, 2), (2, 1)])
@pytest.mark.parametrize("window", [None, 4])
def test_grouped_queries_with_rotary_positions_over_a_cache_that_is_written(
    variant, width, beams, groups, window
):
    """Against attention in float64 over keys that were rotated before; what is not seen is NaN."""
    sentences, heads, capacity, span = 2, 2, 9, 7
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    columns = heads * width
    mixed = randn(sentences * beams, (groups + 2) * columns)  # as one matmul gives them
    query, key, value = mixed.split([groups * columns, columns, columns], dim=1)
    keys, values = (randn(sentences, heads, capacity, beams, width) for _ in range(2))
    keys[:, :, span - 1 :] = values[:, :, span - 1 :] = float("nan")
    chosen = torch.randint(beams, (sentences, beams, capacity), generator=generator)
    chosen[:, :, span - 1] = torch.arange(beams)
    angles = randn(width // 2)
    rotary = torch.stack([angles.cos(), angles.sin()])

    def rotated(x):
        x = x.double().view(sentences, beams, -1, width)
        points = torch.complex(x[..., : width // 2], x[..., width // 2 :])
        points = points * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([points.real, points.imag], dim=-1)

    own = torch.arange(sentences)[:, None, None], chosen[:, :, :span]
    past = [
        cache.double().permute(0, 2, 3, 1, 4)[own[0], torch.arange(span), own[1]] for cache in (keys, values)
    ]  # (S, W, span, H, K)
    past[0][:, :, -1] = rotated(key)
    past[1][:, :, -1] = value.double().view(sentences, beams, heads, width)
    first = 0 if window is None else span - window
    past = [cache[:, :, first:].repeat_interleave(groups, dim=3).permute(0, 1, 3, 2, 4) for cache in past]
    want = F.scaled_dot_product_attention(rotated(query)[:, :, :, None], *past, scale=0.3)
    if window is not None:
        keys[:, :, :first] = values[:, :, :first] = float("nan")
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        options = {"key": key, "value": value, "rotary": rotary, "window": window}
        got = ops.cached_attention(query, keys, values, span, 0.3, chosen, **options)
    torch.testing.assert_close(got.double(), want.reshape(got.shape), rtol=1e-5, atol=1e-5)
    stored = keys[:, :, span - 1].transpose(1, 2)
    torch.testing.assert_close(stored.double(), rotated(key), rtol=1e-5, atol=1e-5)


def test_attention_over_shapes_that_do_not_fit_is_refused():
    keys = torch.zeros(2, 3, 9, 4, 5)
    if backend.unavailable_reason("native") is not None:
        with pytest.raises(backend.BackendUnavailableError, match="needs the backend 'native'"):
            ops.cached_attention(torch.zeros(8, 15), keys, keys, 7, 1.0)
        return
    with pytest.raises(ValueError, match=r"query \(8, 14\), keys \(2, 3, 9, 4, 5\).*span 7 do not fit"):
        ops.cached_attention(torch.zeros(8, 14), keys, keys, 7, 1.0)
    with pytest.raises(ValueError, match="span 10 do not fit"):
        ops.cached_attention(torch.zeros(8, 15), keys, keys, 10, 1.0)
    chosen = torch.zeros(2, 3, 9, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"chosen \(2, 3, 9\) needs"):
        ops.cached_attention(torch.zeros(8, 15), keys, keys, 7, 1.0, chosen)


def without_limits(arguments):
    """The arguments shared with `ops.logits_best`, whose result does not depend on temperature and limits."""
    return {name: value for name, value in arguments.items() if name not in ("temperature", "top_k", "top_p")}


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("case", RULES, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_tokens_are_those_of_the_processed_scores(variant, case, dtype):
    arguments = without_limits(case.arguments(dtype))
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        scores = ops.logits_process(**arguments)
        for count in (1, min(9, scores.shape[1])):
            best, tokens = ops.logits_best(**arguments, count=count)
            want = scores.topk(count)[0]
            assert torch.equal(best, want)
            assert torch.equal(scores.gather(1, tokens), want)
            assert all(len(set(row)) == count for row in tokens.tolist())


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("case", RULES, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sampled_tokens_are_those_of_the_processed_scores(variant, case, dtype):
    arguments = case.arguments(dtype) | {"normalize": False}
    generator = torch.Generator().manual_seed(2)
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        scores = ops.logits_process(**arguments)
        del arguments["normalize"]
        for _ in range(5):
            uniforms = torch.rand(len(scores), generator=generator, dtype=torch.float64)
            assert torch.equal(ops.logits_draw(**arguments, uniforms=uniforms), ops.draw(scores, uniforms))


@needs_library
@pytest.mark.parametrize("limits", [{"top_k": 3}, {"top_p": 0.9}, {"top_k": 60, "top_p": 0.9}])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_scores_that_are_no_numbers_still_give_tokens(limits, share):
    arguments = next(case for case in RULES if case.name == "top-k-of-many").arguments(torch.float32)
    lost = torch.rand(arguments["logits"].shape, generator=torch.Generator().manual_seed(4)) < share
    arguments["logits"] = arguments["logits"].masked_fill(lost, float("nan"))
    arguments |= {"uniforms": torch.full((3,), 0.5, dtype=torch.float64), "top_k": 0} | limits
    del arguments["normalize"]
    tokens = ops.logits_draw(**arguments)
    assert ((tokens >= 0) & (tokens < 4099)).all()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0, top_k 0 and top_p 1.0; they need to be above 0"),
        ({"top_k": -1}, "top_k -1"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"uniforms": torch.zeros(1)}, r"uniforms \(1,\) torch.float32 need the shape \(1,\) and float64"),
    ],
)
def test_limits_out_of_range_are_refused(limits, message):
    arguments = next(case for case in RULES if case.name == "last-place").arguments(torch.float32)
    arguments = arguments | {"uniforms": torch.zeros(1, dtype=torch.float64)} | limits
    del arguments["normalize"]
    with pytest.raises(ValueError, match=message):
        ops.logits_draw(**arguments)


def test_the_best_tokens_of_the_reference():
    arguments = without_limits(RULES[0].arguments(torch.float32))
    with use_backend("reference"):
        scores = ops.logits_process(**arguments)
        for count in (1, 6):
            best, tokens = ops.logits_best(**arguments, count=count)
            assert torch.equal(best, scores.topk(count)[0]) and torch.equal(tokens, scores.topk(count)[1])


@needs_library
def test_more_tokens_than_there_are_cannot_be_had():
    arguments = next(case for case in RULES if case.name == "last-place").arguments(torch.float32)
    arguments = without_limits(arguments)
    with pytest.raises(ValueError, match="count is 6; it needs to be 1 to the vocabulary's 5"):
        ops.logits_best(**arguments, count=6)
