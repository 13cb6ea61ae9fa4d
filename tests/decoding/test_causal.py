"""The fast decoder of decoder-only models gives the tokens of transformers' ``generate(inputs_embeds=…)``."""

import copy
import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from ld4lg_fast.decoding import DecodingConfig, generate, generate_ids
from ld4lg_fast.decoding.search import BeamSearch
from ld4lg_fast.engine.merged_linear import PackedLinears, choose_merge
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend, ops
from tests.decoding.causal_models import (
    FAMILIES,
    WIDTH,
    make_causal_lm,
    make_soft_prefix,
    make_t5gemma,
    make_t5gemma2,
)
from tests.decoding.decoding_models import MAX_LEN, VOCABULARY
from tests.decoding.test_decoding import GREEDY, configs, needs_library, through_generate


def random_tokens(sentences: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (sentences, count), generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:Passing `")
def test_tokens_are_those_of_generate():
    """Over random models, soft prefixes and options; ties as in the test of the same name of encoder-decoders."""
    ties = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.sampled_from(FAMILIES),
        st.integers(0, 5),
        st.integers(0, 999),
        configs,
        st.sampled_from([0, 0, 3]),
        st.sampled_from([1, 5]),
    )
    def check(family, model_seed, seed, config, num_prefix, soft_prefix):
        lm, states = make_causal_lm(family, model_seed), make_soft_prefix(seed, count=soft_prefix)
        prefix = None
        if num_prefix:
            config = replace(config, max_length=min(config.max_length or MAX_LEN, MAX_LEN - num_prefix))
            prefix = random_tokens(len(states), num_prefix, seed)
        got = generate_ids(lm, states, config, MAX_LEN, seed=seed, prefix=prefix)
        want = through_generate(lm, states, config, None, seed, prefix)
        if torch.equal(got, want):
            return
        moved = [states * (1 + 1e-6 * torch.randn_like(states)) for _ in range(8)]
        assert any(
            not torch.equal(through_generate(lm, other, config, None, seed, prefix), want) for other in moved
        ), f"{family} {model_seed}\n{got}\n{want}"
        ties.append(config)

    check()
    assert len(ties) <= 1


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [make_t5gemma, make_t5gemma2])
@pytest.mark.parametrize("name", ["reference", "auto"])
def test_tokens_of_t5gemmas_are_those_of_generate(strategy, masked, make, name, caplog):
    """Gemma 2's decoder with cross-attention, or with one attention over encoder states and text; on both backends."""
    config = DecodingConfig(strategy, min_length=4)
    generate._warn_once.cache_clear()
    for seed in range(2):
        lm, states = make(seed), make_soft_prefix(seed)
        mask = torch.arange(5) < torch.tensor([[5], [2], [4], [1]]) if masked else None
        for prefix in (None, random_tokens(4, 3, seed)):
            limited = replace(config, max_length=MAX_LEN - 3)
            with backend.use_backend(name):
                got = generate_ids(lm, states, limited, MAX_LEN, mask=mask, seed=seed, prefix=prefix)
            assert torch.equal(got, through_generate(lm, states, limited, mask, seed, prefix))
            assert len({tuple(row) for row in got.tolist()}) > 1
    assert not caplog.text, "no fallback"


@needs_library
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_t5gemma2_says_nearly_the_same_in_every_precision(precision):
    lm, states, tokens = make_t5gemma2(0), make_soft_prefix(4, sentences=8), random_tokens(8, 1, 4)[:, 0]
    logits = {}
    for name in (None, precision):
        stack = generate._stack(lm, name, False)
        with torch.no_grad():
            logits[name] = stack.step(tokens, torch.tensor([0]), 1, stack.start(states, None, 1, 4))
    assert 0 < (logits[precision] - logits[None]).norm() < 0.15 * logits[None].norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_model(family):
    """Of a text behind a soft prefix and a prefix of tokens, a step at a time, on both backends."""
    for seed in range(3):
        lm, states, tokens = make_causal_lm(family, seed), make_soft_prefix(seed), random_tokens(4, 11, seed)
        with torch.no_grad():
            embeddings = torch.cat([states, lm.get_input_embeddings()(tokens)], dim=1)
            want = lm(inputs_embeds=embeddings).logits[:, states.shape[1] :]
            for name in ("reference", "auto"):
                with backend.use_backend(name):
                    stack = generate._stack(lm, None, False)
                    cache = stack.start(states, None, 1, 11)
                    stack.prefill(tokens[:, :3], cache)
                    for place in range(3, 11):
                        got = stack.step(tokens[:, place], torch.tensor([place]), place + 1, cache)
                        torch.testing.assert_close(got, want[:, place], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_beams_of_the_random_models_really_change_places(family, monkeypatch):
    """Otherwise the first test would not notice a cache that mixes up beams."""
    moves = []
    choose = BeamSearch.advance

    def advance(search, span):
        before = search.cache.chosen.clone()
        choose(search, span)
        moves.append(not torch.equal(before[:, :, : span - 1], search.cache.chosen[:, :, : span - 1]))

    monkeypatch.setattr(BeamSearch, "advance", advance)
    ids = generate_ids(make_causal_lm(family, 0), make_soft_prefix(0), DecodingConfig(), MAX_LEN)
    assert sum(moves) > len(moves) / 3
    assert len({tuple(row) for row in ids.tolist()}) > 1


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
def test_a_text_is_decoded_alike_in_any_company(strategy):
    lm, states = make_causal_lm("llama", 1), make_soft_prefix(1, sentences=6)
    config = DecodingConfig(strategy, min_length=3)
    together = generate_ids(lm, states, config, MAX_LEN, seed=3, sample_ids=torch.arange(6))
    for i in range(6):
        alone = generate_ids(lm, states[i : i + 1], config, MAX_LEN, seed=3, sample_ids=torch.tensor([i]))[0]
        ends = (alone[1:] == 2).nonzero()
        end = int(ends[0]) + 2 if len(ends) else len(alone)
        assert alone[:end].tolist() == together[i, :end].tolist()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
@needs_library
def test_every_precision_says_nearly_the_same(family, precision):
    states, tokens = make_soft_prefix(4, sentences=8), random_tokens(8, 1, 4)[:, 0]
    lm = make_causal_lm(family, 2)
    logits = {}
    for name in (None, precision):
        stack = generate._stack(lm, name, False)
        with torch.no_grad():
            logits[name] = stack.step(tokens, torch.tensor([0]), 1, stack.start(states, None, 1, 4))
    assert logits[precision].dtype == torch.float32
    error = (logits[precision] - logits[None]).norm() / logits[None].norm()
    assert 0 < error < {"bf16": 0.02, "int8": 0.15}[precision]


def test_no_second_copy_of_weights_is_held():
    """float32 weights, and bfloat16 weights of a model in bfloat16, are the model's own."""
    lm = make_causal_lm("llama", 0)
    for model in (lm, copy.deepcopy(lm).to(torch.bfloat16)):
        _, merge = choose_merge(None, model.dtype, model.device)
        linear = merge([model.lm_head])
        assert isinstance(linear, ops.MergedLinear)
        assert linear.weights[0].data_ptr() == model.lm_head.weight.data_ptr()


@needs_library
@pytest.mark.parametrize("glu", [None, "silu", "gelu_pytorch_tanh"])
def test_packed_linears_are_those_side_by_side(glu):
    torch.manual_seed(0)
    linears = [nn.Linear(32, 24, bias=False), nn.Linear(32, 24)]
    x = torch.randn(5, 32)
    _, merge = choose_merge("int8", torch.float32, torch.device("cpu"))
    packed = merge(linears, glu)
    assert isinstance(packed, PackedLinears)
    with torch.no_grad():
        first, second = (linear(x) for linear in linears)
        activation = {"silu": nn.functional.silu, "gelu_pytorch_tanh": nn.GELU("tanh")}.get(glu)
        want = torch.cat([first, second], dim=1) if activation is None else activation(first) * second
        got = packed(x)
    assert (got - want).norm() < 0.03 * want.norm()


def test_a_changed_weight_is_seen():
    lm, states = make_causal_lm("qwen3", 77), make_soft_prefix(2)  # a model of its own
    before = generate_ids(lm, states, GREEDY, MAX_LEN)
    with torch.no_grad():
        lm.model.norm.weight.mul_(-1)
    after = generate_ids(lm, states, GREEDY, MAX_LEN)
    assert not torch.equal(before, after)
    assert torch.equal(after, through_generate(lm, states, GREEDY, None))


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=WIDTH, n_layer=1, n_head=2)
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 0, 2, 1
    lm = GPT2LMHeadModel(config).eval()
    lm.generation_config.update(bos_token_id=0, eos_token_id=2, pad_token_id=1)
    return lm


def with_adapter():
    lm = make_causal_lm("llama", 88)
    lm.model.layers[0].mlp.up_proj = type("LoraLinear", (nn.Linear,), {})(WIDTH, 40)
    return lm


@pytest.mark.parametrize(
    ("make", "masked", "reason"),
    [
        (gpt2, False, "models of the type 'gpt2'"),
        (with_adapter, False, "layers of the class LoraLinear"),
        (lambda: make_causal_lm("llama", 0), True, "masks of a soft prefix"),
        (
            lambda: make_causal_lm("llama", 4, hidden_act="relu"),
            False,
            "feed-forwards with the activation 'relu'",
        ),
    ],
)
def test_what_is_not_known_goes_through_generate_and_says_so_once(make, masked, reason, caplog):
    lm, states = make(), make_soft_prefix(3)
    mask = torch.tensor([[False, True, True, True, True]] * 4) if masked else None
    generate._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ld4lg_fast.decoding"):
        for _ in range(2):
            got = generate_ids(lm, states, GREEDY, MAX_LEN, mask=mask)
    assert got.shape[0] == 4 and torch.equal(got, through_generate(lm, states, GREEDY, mask))
    assert caplog.text.count(f"the fast decoder does not know {reason}") == 1
    with pytest.raises(ConfigError, match=f"precision=bf16 cannot be had here: {reason}"):
        generate_ids(lm, states, replace(GREEDY, precision="bf16"), MAX_LEN, mask=mask)


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_rotations_that_change_with_the_length_are_not_known(rope):
    options = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    if rope == "longrope":
        options |= {
            "short_factor": [1.0] * 4,
            "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 8,
        }
    lm = make_causal_lm("llama", 0)
    before = lm.config.rope_parameters
    lm.config.rope_parameters = options
    try:
        with pytest.raises(generate.UnsupportedError, match=f"rotary embeddings of the type '{rope}'"):
            generate.read_causal_decoder(lm, torch.float32, choose_merge(None, lm.dtype, lm.device)[1])
    finally:
        lm.config.rope_parameters = before


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("family", FAMILIES)
def test_captured_steps_give_the_tokens_of_the_cpu(family, strategy):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    lm, states = make_causal_lm(family, 0), make_soft_prefix(7, sentences=6)
    config = DecodingConfig(strategy)
    want = generate_ids(lm, states, config, MAX_LEN, seed=1)
    lm.cuda()
    try:
        got = generate_ids(lm, states.cuda(), config, MAX_LEN, seed=1)
    finally:
        lm.cpu()
    assert torch.equal(got.cpu(), want)
