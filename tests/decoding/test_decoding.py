"""The fast text decoder gives the tokens of transformers' ``generate`` for every option that it supports."""

import logging
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    MBartConfig,
    MBartForConditionalGeneration,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ld4lg_fast.decoding import DecodingConfig, generate, generate_ids
from ld4lg_fast.decoding.families import read_decoder
from ld4lg_fast.decoding.reranking import choose_by_risk, choose_by_score, model_scores
from ld4lg_fast.decoding.search import BeamSearch
from ld4lg_fast.engine.precision import CpuBFloat16Linear, CpuLinear, Int8Linear, OneDnnLinear, PlainLinear
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.models.language_models import Reading, language_model
from tests.decoding.decoding_models import FAMILIES, MAX_LEN, VOCABULARY, WIDTH, make_lm, make_states

GREEDY = DecodingConfig("greedy", min_length=0, no_repeat_ngram_size=0, repetition_penalty=1.0)

needs_library = pytest.mark.skipif(
    backend.unavailable_reason("native") is not None, reason="needs the C++ library"
)

configs = st.builds(
    DecodingConfig,
    strategy=st.sampled_from(["greedy", "beam", "beam", "nucleus"]),
    max_length=st.one_of(st.none(), st.integers(8, MAX_LEN)),
    min_length=st.sampled_from([0, 1, 5, 8]),
    num_beams=st.integers(1, 5),
    no_repeat_ngram_size=st.integers(0, 4),
    repetition_penalty=st.sampled_from([1.0, 1.2, 0.8]),
    top_p=st.sampled_from([0.5, 0.95, 1.0]),
    temperature=st.sampled_from([0.7, 1.0, 1.5]),
    top_k=st.sampled_from([0, 1, 7]),
    length_penalty=st.sampled_from([None, -1.0, 0.0, 0.5, 2.0]),
    early_stopping=st.sampled_from([None, True, False, "never"]),
)


def through_generate(lm, states, config, mask, seed=0, prefix=None):
    """Tokens of transformers' ``generate`` for the arguments of `generate_ids`."""
    options = generate._options(lm, config, MAX_LEN, 0 if prefix is None else prefix.shape[1])
    uniforms = None
    if config.strategy == "nucleus":
        uniforms = generate._uniforms(states, options.max_length, seed, None, 0)
    return generate._generate(lm, states, mask, options, config, uniforms, prefix)


def test_tokens_are_those_of_generate():
    """Over random models, states and options.

    Where two texts are equally good to the last digit, rounding decides. A disagreement passes as that if
    ``generate`` itself changes its mind when the states move by a millionth, and no more than once in all.
    """
    ties = []

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.sampled_from(FAMILIES),
        st.integers(0, 2),
        st.integers(0, 999),
        configs,
        st.booleans(),
        st.sampled_from([0, 0, 3]),
    )
    def check(family, model_seed, seed, config, masked, num_prefix):
        lm = make_lm(family, model_seed)
        states, mask = make_states(seed)
        mask = mask if masked else None
        prefix = None
        if num_prefix:
            config = replace(config, max_length=min(config.max_length or MAX_LEN, MAX_LEN - num_prefix))
            generator = torch.Generator().manual_seed(seed)
            prefix = torch.randint(3, VOCABULARY, (len(states), num_prefix), generator=generator)
        got = generate_ids(lm, states, config, MAX_LEN, mask=mask, seed=seed, prefix=prefix)
        want = through_generate(lm, states, config, mask, seed, prefix)
        if torch.equal(got, want):
            return
        moved = [states * (1 + 1e-6 * torch.randn_like(states)) for _ in range(8)]
        assert any(
            not torch.equal(through_generate(lm, other, config, mask, seed, prefix), want) for other in moved
        ), f"{got}\n{want}"
        ties.append(config)

    check()
    assert len(ties) <= 1


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_beams_of_the_random_models_really_change_places(family, monkeypatch):
    """Otherwise the test above would not notice a cache that mixes up beams."""
    lm, (states, _) = make_lm(family, 0), make_states(0)
    moves = []
    step = BeamSearch.advance

    def advance(search, span):
        chosen = []
        choose = search.cache.choose_beams
        search.cache.choose_beams = lambda parents: (chosen.append(parents), choose(parents))
        step(search, span)
        moves.extend(row.tolist() != list(range(4)) for row in chosen[0])
        search.cache.choose_beams = choose

    monkeypatch.setattr(BeamSearch, "advance", advance)
    ids = generate_ids(lm, states, DecodingConfig(), MAX_LEN)
    assert sum(moves) > len(moves) / 3
    assert len({tuple(row) for row in ids.tolist()}) == len(ids)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
def test_a_sentence_is_decoded_alike_in_any_company(strategy):
    """Finished sentences are dropped from the batch, which must not change the others."""
    lm, (states, _) = make_lm("bart", 0), make_states(1, sentences=9)
    config = DecodingConfig(strategy, min_length=4)
    options = {"seed": 3, "sample_ids": torch.arange(9)}
    together = generate_ids(lm, states, config, MAX_LEN, **options)
    ended = (together[:, 1:] == 2).int().argmax(1)
    assert len(set(ended.tolist())) > 2, "the texts should end at different places"
    for i in range(9):
        options["sample_ids"] = torch.tensor([i])
        alone = generate_ids(lm, states[i : i + 1], config, MAX_LEN, **options)[0]
        end = (alone[1:] == 2).int().argmax() + 2 if (alone[1:] == 2).any() else MAX_LEN
        assert alone[:end].tolist() == together[i, :end].tolist()


@needs_library
@pytest.mark.parametrize("strategy", ["greedy", "beam"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_plain_attention_and_rules_give_the_same_tokens(family, strategy):
    lm, (states, mask) = make_lm(family, 0), make_states(8)
    config = DecodingConfig(strategy)
    got = generate_ids(lm, states, config, MAX_LEN, mask=mask)
    with backend.use_backend("reference"):
        want = generate_ids(lm, states, config, MAX_LEN, mask=mask)
    assert torch.equal(got, want)


def test_a_changed_weight_is_seen():
    lm, (states, mask) = make_lm("bart", 5), make_states(2)
    before = generate_ids(lm, states, GREEDY, MAX_LEN, mask=mask)
    with torch.no_grad():
        lm.model.decoder.layers[1].fc2.weight.mul_(-1)
    after = generate_ids(lm, states, GREEDY, MAX_LEN, mask=mask)
    assert not torch.equal(before, after)
    assert torch.equal(after, through_generate(lm, states, GREEDY, mask))


def mbart():
    torch.manual_seed(0)
    sizes = {f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    config = MBartConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        decoder_start_token_id=2,
        **sizes,
    )
    return MBartForConditionalGeneration(config).eval()


@pytest.mark.parametrize(
    ("lm", "reason"),
    [
        (mbart, "models of the type 'mbart'"),
        (lambda: make_lm("bart", 6), r"the option suppress_tokens=\[7, 8\]"),
    ],
)
def test_what_is_not_known_goes_through_generate_and_says_so_once(lm, reason, caplog, monkeypatch):
    lm, (states, mask) = lm(), make_states(3)
    if lm.config.model_type == "bart":
        lm.generation_config.suppress_tokens = [7, 8]
    generate._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ld4lg_fast.decoding"):
        for _ in range(2):
            got = generate_ids(lm, states, GREEDY, MAX_LEN, mask=mask)
    assert torch.equal(got, through_generate(lm, states, GREEDY, mask))
    assert caplog.text.count("decoding through transformers' generate") == 1
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(ConfigError, match=f"precision=int8 cannot be had here: {reason}"),
    ):
        generate_ids(lm, states, DecodingConfig("greedy", precision="int8"), MAX_LEN)


@given(
    st.integers(0, 999),
    st.sampled_from([0.6, 1.0]),
    st.sampled_from([0, 1, 9]),
    st.sampled_from([0.3, 0.9, 1.0]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_nucleus_is_that_of_transformers(seed, temperature, top_k, top_p):
    generator = torch.Generator().manual_seed(seed)
    scores = 3 * torch.randn(4, 700, generator=generator)
    uniforms = torch.rand(4, generator=generator, dtype=torch.float64)
    limited = TemperatureLogitsWarper(temperature)(None, scores)
    if top_k:
        limited = TopKLogitsWarper(top_k)(None, limited)
    limited = TopPLogitsWarper(top_p)(None, limited)
    want = ops.draw(limited, uniforms)
    ids, nothing = torch.zeros(4, 3, dtype=torch.int64), torch.full((3,), -1)
    rules = {"length": torch.tensor([1]), "eos": torch.tensor([1]), "forced": nothing, "uniforms": uniforms}
    limits = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    for name in ("auto", "reference"):
        with backend.use_backend(name):
            assert torch.equal(ops.logits_draw(scores, ids, **rules, **limits), want)


def test_sampled_tokens_follow_the_probabilities():
    scores = torch.tensor([0.1, 0.2, 0.0, 0.7]).log().expand(4000, 4)
    tokens = ops.draw(scores, torch.linspace(0.5 / 4000, 1 - 0.5 / 4000, 4000, dtype=torch.float64))
    assert torch.bincount(tokens, minlength=4).tolist() == [400, 800, 0, 2800]


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [
        *((kind, 1e-6) for kind in (PlainLinear, OneDnnLinear, CpuLinear)),
        pytest.param(CpuBFloat16Linear, 0.01, marks=needs_library),
        (Int8Linear, 0.02),
    ],
)
@pytest.mark.parametrize("rows", [1, 7, 9, 70])
def test_prepared_products(kind, tolerance, rows):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(96, 64, generator=generator), torch.randn(96, generator=generator)
    x, residual = torch.randn(rows, 64, generator=generator), torch.randn(rows, 96, generator=generator)
    for offset in (bias, None):
        want = nn.functional.linear(x, weight, offset)
        linear = kind(weight, offset)
        assert (linear(x) - want).norm() <= tolerance * want.norm()
        assert (linear(x, residual.clone()) - want - residual).norm() <= tolerance * want.norm()
        active = kind(weight, offset, gelu=True)
        want = nn.functional.gelu(want)
        assert (active(x) - want).norm() <= tolerance * want.norm()
        assert (active(x, residual.clone()) - want - residual).norm() <= tolerance * want.norm()


def test_precisions_used_in_turn_are_prepared_once(monkeypatch):
    prepared = []

    def counted(lm, dtype, pack):
        prepared.append(pack)
        return read_decoder(lm, dtype, pack)

    monkeypatch.setattr(generate, "read_decoder", counted)
    lm, (states, _) = make_lm("bart", 99_991), make_states(4)  # a model of its own
    for precision in ("fp32", "int8", "fp32", "int8"):
        generate_ids(lm, states, DecodingConfig("greedy", 8, precision=precision), MAX_LEN)
    assert len(prepared) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_every_precision_says_nearly_the_same(precision):
    lm, (states, mask) = make_lm("bart", 0), make_states(4, sentences=8)
    config = DecodingConfig(
        "greedy", 8, 0, no_repeat_ngram_size=0, repetition_penalty=1.0, precision=precision
    )
    got = generate_ids(lm, states, config, MAX_LEN, mask=mask)
    want = through_generate(lm, states, config, mask)
    assert got.shape == want.shape
    agreement = (got[:, 1:5] == want[:, 1:5]).float().mean()
    assert agreement == 1.0 if precision == "fp32" else agreement > 0.7


def test_model_scores_are_the_log_probabilities_of_a_text():
    lm, (states, mask) = make_lm("t5", 0), make_states(5, sentences=2)
    ids = torch.tensor([[0, 9, 4, 1, 0], [0, 3, 3, 7, 8]])  # the first ends at its fourth token
    got = model_scores(language_model(lm, Reading()), states, ids, mask)
    logits = lm(encoder_outputs=(states,), attention_mask=mask.long(), decoder_input_ids=ids).logits
    for row, length in ((0, 4), (1, 5)):
        steps = [logits[row, i].log_softmax(-1)[ids[row, i + 1]] for i in range(length - 1)]
        torch.testing.assert_close(got[row], torch.stack(steps).mean())


def test_choices_among_decodes():
    lm, (states, mask) = make_lm("t5", 0), make_states(6, sentences=2)
    likely = generate_ids(lm, states, GREEDY, MAX_LEN, mask=mask)
    unlikely = (likely + 17) % VOCABULARY
    assert choose_by_score(language_model(lm, Reading()), states, [unlikely, likely], mask) == [1, 1]
    decodes = [["a cat sat down", "x"], ["zebra", "the red house"], ["a cat sat up", "the red mouse"]]
    assert choose_by_risk(decodes, "rougeL") == [0, 1]


@pytest.mark.parametrize("choose_decode", ["score", "bleu"])
def test_reranking_keeps_one_of_the_decodes(autoencoder, choose_decode):
    latents = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))
    settings = {"max_length": 12, "temperature": 3.0, "top_p": 1.0}
    single = DecodingConfig("nucleus", **settings)
    several = DecodingConfig("nucleus", num_decodes=4, choose_decode=choose_decode, **settings)
    states = autoencoder.decode_states(latents)
    decodes = [generate_ids(autoencoder.lm, states, single, 32, seed=2, decode=i) for i in range(4)]
    assert len({tuple(ids[0].tolist()) for ids in decodes}) == 4, "every decode draws its own numbers"
    special = set(autoencoder.tokenizer.all_special_ids)
    texts = [[[t for t in row if t not in special] for row in ids.tolist()] for ids in decodes]
    chosen = autoencoder.generate(latents, several, seed=2)
    if choose_decode == "score":
        numbers = choose_by_score(autoencoder.language_model, states, decodes, None)
    else:
        numbers = choose_by_risk([autoencoder.decode_text(ids) for ids in texts], choose_decode)
    assert chosen == [texts[number][latent] for latent, number in enumerate(numbers)]


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ({"early_stopping": "maybe"}, "early_stopping is 'maybe'; it must be true, false or never"),
        ({"precision": "int4"}, "Unknown precision 'int4'; choose one of fp32"),
        ({"num_decodes": 3}, "num_decodes is 3; more than 1 needs strategy=nucleus, as beam gives"),
        ({"choose_decode": "luck"}, "Unknown choose_decode 'luck'; choose one of score, bleu"),
        ({"top_k": -1}, "top_k is -1; it must be a whole number from 0 to"),
    ],
)
def test_options_that_cannot_work_are_named(bad, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DecodingConfig(**bad)


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
@pytest.mark.parametrize("family", ["bart", "t5"])
def test_captured_steps_give_the_tokens_of_the_cpu(family, strategy):
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    lm, (states, mask) = make_lm(family, 0), make_states(7, sentences=6)
    config = DecodingConfig(strategy)
    want = generate_ids(lm, states, config, MAX_LEN, mask=mask, seed=1)
    lm.cuda()
    try:
        got = generate_ids(lm, states.cuda(), config, MAX_LEN, mask=mask.cuda(), seed=1)
    finally:
        lm.cpu()
    assert torch.equal(got.cpu(), want)
