"""Tiny random BART and T5 models whose texts vary, for the tests of decoding.

As they are initialised, such models repeat one token whatever their input: here every matrix is large enough to
matter, and the head is its own.
"""

from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

VOCABULARY, WIDTH, MAX_LEN = 61, 32, 24
FAMILIES = ("bart", "bart-scaled", "t5", "t5-gated", "mt5")


def _bart(scaled: bool) -> PreTrainedModel:
    config = BartConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=MAX_LEN + 1,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=2 * WIDTH,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0 if scaled else None,
        forced_eos_token_id=2,
        scale_embedding=scaled,
    )
    return BartForConditionalGeneration(config)


def _t5(config_class: type, model_class: type, **options) -> PreTrainedModel:
    return model_class(
        config_class(
            vocab_size=VOCABULARY,
            d_model=WIDTH,
            d_kv=12,  # so that heads · d_kv is not d_model
            d_ff=2 * WIDTH,
            num_layers=2,
            num_heads=2,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
            **options,
        )
    )


@lru_cache(maxsize=16)
def make_lm(family: str, seed: int) -> PreTrainedModel:
    """One of `FAMILIES` with random weights."""
    torch.manual_seed(seed)
    lm = {
        "bart": lambda: _bart(False),
        "bart-scaled": lambda: _bart(True),
        "t5": lambda: _t5(T5Config, T5ForConditionalGeneration, feed_forward_proj="relu"),
        "t5-gated": lambda: _t5(
            T5Config,
            T5ForConditionalGeneration,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        "mt5": lambda: _t5(MT5Config, MT5ForConditionalGeneration, feed_forward_proj="gated-gelu"),
    }[family]()
    with torch.no_grad():
        for parameter in lm.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(0.35 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
        size = 3.0 if family == "t5" else 0.6  # the first T5 scales its outputs by d^-0.5
        lm.lm_head.weight = nn.Parameter(size * torch.randn(VOCABULARY, WIDTH))
        if hasattr(lm, "final_logits_bias"):
            lm.final_logits_bias.copy_(torch.randn(1, VOCABULARY))
    return lm.eval()


def make_states(seed: int, sentences: int = 4, latents: int = 5) -> tuple[Tensor, Tensor]:
    """Random encoder states (S, N, W) and a mask (S, N) that keeps at least one position of each."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(sentences, latents, WIDTH, generator=generator)
    mask = torch.rand(sentences, latents, generator=generator) > 0.3
    mask[:, 0] = True
    return states, mask
