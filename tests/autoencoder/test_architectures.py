"""Tiny random models of every architecture that the documentation names: latents, losses, training, texts.

Losses are those of transformers' own forward pass, and texts those of its ``generate``, by the fast decoding stack or
by a fallback that says so.
"""

import logging

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.decoding import NO_RULES, DecodingConfig, generate, generate_ids
from tests.conftest import PERCEIVER
from tests.decoding.test_decoding import through_generate
from tests.language_models import (
    DECODER_ONLY,
    ENCODER_DECODER,
    spread,
    tiny_decoder_only,
    tiny_encoder_decoder,
)

TEXTS = ["The Eagle is a pub near the river.", "Cheap food.", "A family friendly coffee shop called Zizzi."]
MAX_LEN = 32
NOT_FAST = ("mbart", "marian", "pegasus")
DECODINGS = (
    DecodingConfig("greedy", max_length=14, min_length=0, **NO_RULES),
    DecodingConfig("beam", max_length=14, num_beams=3),
    DecodingConfig("nucleus", max_length=14),
)


@pytest.fixture(scope="module", params=[*DECODER_ONLY, *ENCODER_DECODER])
def named(request, tmp_path_factory, tokenizer):
    """A name and an autoencoder around a model of that architecture."""
    name, folder = request.param, tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    maker = tiny_decoder_only if name in DECODER_ONLY else tiny_encoder_decoder
    spread(maker(name, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return name, LanguageAutoencoder.from_pretrained_lm(str(folder), PERCEIVER, MAX_LEN).eval()


def batch(autoencoder, texts=TEXTS):
    tokens = tokenize_texts(texts, autoencoder.tokenizer, MAX_LEN)
    return collate([tokens[i] for i in range(len(texts))], autoencoder.tokenizer.pad_token_id)


@torch.no_grad()
def test_latents_are_those_of_each_text_alone(named):
    _, model = named
    together = model.encode(*batch(model))
    assert together.shape == (3, 6, 8) and together.isfinite().all()
    for row, text in enumerate(TEXTS):
        torch.testing.assert_close(
            model.encode(*batch(model, [text]))[0], together[row], rtol=1e-4, atol=1e-4
        )
    assert (together[0] - together[1]).abs().max() > 1e-3


@torch.no_grad()
def test_the_loss_is_that_of_the_model_itself(named):
    name, model = named
    ids, mask = batch(model)
    memory = model.decode_states(model.encode(ids, mask))
    labels = ids.masked_fill(~mask, -100)
    read = torch.cat([ids.new_full((3, 1), model.language_model.start), ids[:, :-1]], dim=1)
    if name in DECODER_ONLY:
        embeddings = torch.cat([memory, model.lm.get_input_embeddings()(read)], dim=1)
        logits = model.lm(inputs_embeds=embeddings).logits[:, memory.shape[1] :]
    else:
        states = BaseModelOutput(last_hidden_state=memory)
        logits = model.lm(encoder_outputs=states, decoder_input_ids=read).logits
    want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(model.loss(ids, mask), want, rtol=1e-4, atol=1e-4)


def test_it_is_trained_around_and_stored(named, tmp_path):
    _, model = named
    model.train().loss(*batch(model)).backward()
    assert all(weight.grad is not None for weight in model.perceiver.parameters())
    assert all(weight.grad is None for weight in model.lm.parameters())
    latents = model.eval().encode(*batch(model))
    assert model.decode_states(latents).shape == (3, 6, 64)
    model.save(tmp_path)
    again = LanguageAutoencoder.load(tmp_path)
    ids, mask = batch(again)
    torch.testing.assert_close(again.encode(ids, mask), latents)
    torch.testing.assert_close(again.loss(ids, mask), model.loss(ids, mask))
    for decoding in DECODINGS:
        assert again.generate(latents, decoding, seed=3) == model.generate(latents, decoding, seed=3)


@pytest.mark.filterwarnings("ignore:Passing `")
def test_texts_are_those_of_generate(named, caplog):
    name, model = named
    latents = 3 * torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(1))
    states = model.decode_states(latents).detach()
    texts: set[tuple[int, ...]] = set()
    generate._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="ld4lg_fast.decoding"):
        for decoding in DECODINGS:
            got = generate_ids(model.lm, states, decoding, MAX_LEN, seed=3)
            assert torch.equal(got, through_generate(model.lm, states, decoding, None, 3))
            texts |= {tuple(row) for row in got.tolist()}
    assert len(texts) > len(DECODINGS), "the latents decide, if not in every strategy"
    sentence = f"the fast decoder does not know models of the type '{name}'"
    assert caplog.text.count(sentence) == (name in NOT_FAST) and ("does not know" in caplog.text) == (
        name in NOT_FAST
    )
