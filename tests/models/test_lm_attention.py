"""transformers' models give the same loss and gradients with our attention as with PyTorch's."""

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.models import lm_attention
from tests.models import flash_attn_stand_in as stand_in

CPU = torch.device("cpu")


def bart(dropout=0.0, heads=2):
    sizes = {"vocab_size": 50, "d_model": 128, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0}
    layers = {"encoder_layers": 1, "decoder_layers": 2, "max_position_embeddings": 200}
    heads = {"encoder_attention_heads": heads, "decoder_attention_heads": heads}
    return BartForConditionalGeneration(BartConfig(**sizes, **layers, **heads, attention_dropout=dropout))


def gpt2():
    shape = {"vocab_size": 50, "n_positions": 200, "n_embd": 128, "n_layer": 2, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0))


def llama():
    """Two heads of queries share each head of keys."""
    shape = {"vocab_size": 50, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    return LlamaForCausalLM(LlamaConfig(**shape, **heads, max_position_embeddings=200))


def t5():
    shape = {"vocab_size": 50, "d_model": 128, "d_kv": 64, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    shape |= {"decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(**shape, dropout_rate=0.0))


@pytest.fixture
def calls(monkeypatch):
    """The number of calls of our attention."""
    found = []
    monkeypatch.setattr(
        lm_attention.ops, "short_attention", lambda *a, ours=ops.short_attention: found.append(1) or ours(*a)
    )
    return found


def gradients(model, bf16, length=17):
    """The loss of four texts of different lengths, and all gradients."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (4, length), generator=generator)
    mask = (torch.arange(length) < torch.tensor([[length], [1], [5], [length - 1]])).long()
    labels = ids.masked_fill(mask == 0, -100)
    torch.manual_seed(2)  # of dropout
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    model.zero_grad()
    loss.backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("length", [17, 150])
@pytest.mark.parametrize("make, attentions", [(bart, 5), (gpt2, 2), (llama, 2)])
def test_bfloat16_is_as_near_to_float32_as_pytorch_is(make, attentions, length, calls):
    torch.manual_seed(0)
    model = make().train()
    exact_loss, exact = gradients(model, False, length)
    theirs_loss, theirs = gradients(model, True, length)
    lm_attention.use_short_attention(model, CPU)
    loss, ours = gradients(model, True, length)
    long = length > lm_attention.SHORT  # which plain matmuls compute
    assert len(calls) == (0 if long else attentions)
    assert (ours - exact).norm() < 1.3 * (theirs - exact).norm()
    torch.testing.assert_close(loss, exact_loss, rtol=5e-3, atol=0)
    torch.testing.assert_close(theirs_loss, exact_loss, rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    "make, bf16",
    [
        (bart, False),
        (gpt2, False),
        (lambda: bart(dropout=0.1), True),
        (lambda: bart(heads=4), True),
        (t5, True),
    ],
    ids=["float32", "float32 GPT-2", "dropout", "heads of 32", "T5"],
)
def test_pytorch_where_ours_has_no_such_case(make, bf16, calls):
    torch.manual_seed(0)
    model = make().train()
    before_loss, before = gradients(model, bf16)
    lm_attention.use_short_attention(model, CPU)
    loss, after = gradients(model, bf16)
    assert not calls
    torch.testing.assert_close(loss, before_loss)
    torch.testing.assert_close(after, before, rtol=2e-2 if bf16 else 1e-4, atol=1e-3 if bf16 else 1e-6)


def test_what_is_saved_is_an_ordinary_model(tmp_path):
    model = bart()
    lm_attention.use_short_attention(model, CPU)
    model.save_pretrained(tmp_path)
    assert lm_attention.NAME not in (tmp_path / "config.json").read_text()
    assert BartForConditionalGeneration.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_on_a_gpu_nothing_changes():
    model = bart()
    lm_attention.use_short_attention(model, torch.device("cuda"))
    assert model.config._attn_implementation == "sdpa"


def test_a_language_model_computes_what_it_does_by_sdpa(install):
    install(2, dtypes=(torch.float32,))
    model = bart().eval()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (4, 11), generator=generator)
    mask = torch.arange(11) < torch.tensor([5, 11, 1, 8])[:, None]
    bias = torch.zeros(4, 1, 11, 11).masked_fill(~mask[:, None, None], torch.finfo(torch.float32).min)
    earlier = torch.ones(1, 1, 11, 11, dtype=torch.bool).tril()
    earlier = torch.zeros(earlier.shape).masked_fill(~earlier, torch.finfo(torch.float32).min)
    for given, past in ((mask.long(), None), (bias, earlier)):  # tokens' masks, and ours of pairs
        options = {"attention_mask": given, "decoder_input_ids": ids, "decoder_attention_mask": past}
        expected = model(input_ids=ids, **options).logits
        lm_attention.set_lm_attention(model, "flash_attn")
        torch.testing.assert_close(model(input_ids=ids, **options).logits, expected, rtol=1e-4, atol=1e-5)
        assert {causal for _, _, causal in stand_in.options} == {False, True}
        assert stand_in.tokens == [
            (44, 25),
            (44, 44),
            (44, 25),
            (44, 44),
            (44, 25),
        ]
        stand_in.tokens.clear()
        lm_attention.set_lm_attention(model, "auto")
        assert model.config._attn_implementation == "sdpa"
    assert not stand_in.tokens


def test_t5_is_refused_for_its_relative_positions():
    with pytest.raises(ConfigError, match="t5 has relative position biases"):
        lm_attention.set_lm_attention(t5(), "flash_attn")
