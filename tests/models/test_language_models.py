"""The interface of both kinds of language models, with a tiny random model of every architecture."""

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.language_models import DecoderOnly, EncoderDecoder, Reading, language_model
from tests.language_models import (
    DECODER_ONLY,
    ENCODER_DECODER,
    spread,
    tiny_decoder_only,
    tiny_encoder_decoder,
)

VOCABULARY, BATCH, MEMORY = 60, 3, 5


@pytest.fixture(scope="module", params=[*DECODER_ONLY, *ENCODER_DECODER])
def model(request):
    torch.manual_seed(0)
    make = tiny_decoder_only if request.param in DECODER_ONLY else tiny_encoder_decoder
    return language_model(spread(make(request.param, VOCABULARY)), Reading())


def draw(seed=0, length=7):
    """Token ids (B, T), and a memory (B, N, W)."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, VOCABULARY, (BATCH, length), generator=generator)
    return ids, torch.randn(BATCH, MEMORY, 64, generator=generator) * 0.5


def test_each_architecture_is_of_its_kind(model):
    kind = EncoderDecoder if model.lm.config.is_encoder_decoder else DecoderOnly
    assert type(model) is kind
    assert (model.width, model.vocabulary) == (64, VOCABULARY)


@torch.no_grad()
def test_padding_does_not_change_states(model):
    ids, _ = draw()
    states = model.encode(ids, torch.ones_like(ids))
    assert states.shape == (*ids.shape, 64)
    padded, mask = F.pad(ids, (0, 3), value=1), F.pad(torch.ones_like(ids), (0, 3))
    torch.testing.assert_close(model.encode(padded, mask)[:, :7], states)


@torch.no_grad()
def test_the_loss_is_that_of_the_logits(model):
    ids, memory = draw()
    labels = ids.clone()
    labels[0, 5:] = -100
    targets = labels.clone()
    targets[1, :2] = -100
    read = torch.cat([torch.full((BATCH, 1), model.start), ids[:, :-1]], dim=1)
    if isinstance(model, EncoderDecoder):
        encoded = BaseModelOutput(last_hidden_state=memory)
        logits = model.lm(encoder_outputs=encoded, decoder_input_ids=read).logits
    else:
        embeddings = torch.cat([memory, model.lm.get_input_embeddings()(read)], dim=1)
        logits = model.lm(inputs_embeds=embeddings).logits[:, MEMORY:]
    want = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(model.loss(memory, None, labels, targets), want)


@torch.no_grad()
def test_hidden_states_give_the_logits(model):
    ids, memory = draw()
    if getattr(model.decoder.config, "final_logit_softcapping", None) is not None:
        pytest.skip("the head caps its logits")
    head = model.lm.get_output_embeddings()
    torch.testing.assert_close(head(model.hidden(memory, None, ids)), model.logits(memory, None, ids))


@torch.no_grad()
def test_the_text_depends_on_the_memory_and_on_earlier_tokens_alone(model):
    ids, memory = draw()
    logits = model.logits(memory, None, ids)
    assert not torch.allclose(model.logits(memory.flip(0), None, ids)[0], logits[0])
    later = ids.clone()
    later[:, 4:] = 9
    torch.testing.assert_close(model.logits(memory, None, later)[:, :4], logits[:, :4])


@pytest.mark.parametrize("name", DECODER_ONLY)
@torch.no_grad()
def test_states_are_those_of_the_chosen_layer(name):
    lm, (ids, _) = spread(tiny_decoder_only(name, VOCABULARY)), draw()
    every = lm.model(
        torch.cat([torch.zeros(BATCH, 1, dtype=torch.long), ids], dim=1), output_hidden_states=True
    ).hidden_states
    mask = torch.ones_like(ids)
    first = DecoderOnly(lm, Reading(layer=1)).encode(ids, mask)
    torch.testing.assert_close(first, lm.model.norm(every[1])[:, 1:])
    torch.testing.assert_close(DecoderOnly(lm, Reading(layer=2)).encode(ids, mask), every[2][:, 1:])
    torch.testing.assert_close(DecoderOnly(lm, Reading()).encode(ids, mask), first)
    assert len(lm.model.layers) == 2, "the model itself is whole"


@pytest.mark.parametrize("name", DECODER_ONLY)
@torch.no_grad()
def test_the_mask_of_states_is_causal_or_bidirectional(name):
    lm, (ids, _) = spread(tiny_decoder_only(name, VOCABULARY)), draw()
    later, mask = ids.clone(), torch.ones_like(ids)
    later[:, -1] = 9
    causal, both = DecoderOnly(lm, Reading()), DecoderOnly(lm, Reading(bidirectional=True))
    torch.testing.assert_close(causal.encode(later, mask)[:, :-1], causal.encode(ids, mask)[:, :-1])
    assert not torch.allclose(both.encode(later, mask)[:, 0], both.encode(ids, mask)[:, 0])
    padded, longer = F.pad(ids, (0, 3), value=1), F.pad(mask, (0, 3))
    torch.testing.assert_close(both.encode(padded, longer)[:, :7], both.encode(ids, mask))


def test_a_layer_that_is_not_there_is_refused():
    lm = tiny_decoder_only("llama", VOCABULARY)
    with pytest.raises(ConfigError, match="autoencoder.layer=3 is more than the 2 layers"):
        language_model(lm, Reading(layer=3))


def test_an_encoder_decoder_has_states_of_its_own():
    with pytest.raises(
        ConfigError, match="autoencoder.layer and autoencoder.bidirectional are for decoder-only"
    ):
        language_model(tiny_encoder_decoder("bart", VOCABULARY), Reading(bidirectional=True))


def test_a_model_of_another_structure_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    lm = GPT2LMHeadModel(GPT2Config(vocab_size=60, n_embd=64, n_layer=1, n_head=1, n_positions=64))
    with pytest.raises(ConfigError, match="Decoder-only models of the type 'gpt2' are not supported"):
        language_model(lm, Reading())


def test_the_memory_and_the_start_count_towards_the_limit():
    assert language_model(tiny_decoder_only("llama", VOCABULARY), Reading()).most_tokens(32) == 256 - 33
    assert language_model(tiny_encoder_decoder("bart", VOCABULARY), Reading()).most_tokens(32) == 64
    assert language_model(tiny_encoder_decoder("t5", VOCABULARY), Reading()).most_tokens(32) is None
