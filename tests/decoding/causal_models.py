"""Tiny random decoder-only models whose texts vary, for the tests of their decoding."""

from functools import lru_cache

import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Gemma2Config,
    T5Gemma2ForConditionalGeneration,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from tests.decoding.decoding_models import VOCABULARY

WIDTH = 36  # has heads in threes, as SmolLM2

CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "gemma": (GemmaConfig, GemmaForCausalLM),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM),
}
FAMILIES = tuple(CLASSES)


def random_options(family: str, seed: int) -> dict:
    """Options of a family's config that change what a step computes, drawn by ``seed``."""
    generator = torch.Generator().manual_seed(seed)

    def one_of(*choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    heads, kv_heads = one_of((2, 1), (3, 1), (6, 6), (6, 2), (9, 3))
    theta = one_of(100.0, 10_000.0)
    rope = one_of({"rope_type": "default"}, {"rope_type": "default"}, {"rope_type": "linear", "factor": 2.0})
    options = {
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rope_parameters": {"rope_theta": theta} | rope,
        "tie_word_embeddings": one_of(True, False),
    }
    if family != "qwen2":  # its heads are always hidden_size / heads wide
        options["head_dim"] = one_of(8, 12, 64)
    if family == "llama":
        options |= {"attention_bias": one_of(True, False), "mlp_bias": one_of(True, False)}
    if family == "mistral":
        options["sliding_window"] = one_of(None, 5)
    if family == "gemma2":
        options |= {
            "sliding_window": one_of(5, 100),
            "query_pre_attn_scalar": one_of(4, 16),
            "attn_logit_softcapping": one_of(None, 2.0),
            "final_logit_softcapping": one_of(None, 3.0),
        }
    if family in ("qwen2", "qwen3") and one_of(True, False):
        options |= {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}
    return options


@lru_cache(maxsize=32)
def make_causal_lm(family: str, seed: int, **options) -> PreTrainedModel:
    """One of `FAMILIES` with random weights, and ``options`` of its config."""
    torch.manual_seed(seed)
    config_class, model_class = CLASSES[family]
    config = config_class(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=40,
        num_hidden_layers=2,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        **random_options(family, seed) | options,
    )
    lm = model_class(config)
    return _randomized(lm)


@lru_cache(maxsize=8)
def make_t5gemma(seed: int) -> PreTrainedModel:
    """A T5Gemma with random weights, whose encoder and decoder differ."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "head_dim": 8,
        "sliding_window": 5,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    config = T5GemmaConfig(
        encoder=sizes | {"num_attention_heads": 2, "num_key_value_heads": 1},
        decoder=sizes | {"num_attention_heads": 6, "num_key_value_heads": 2},
        vocab_size=VOCABULARY,
        tie_word_embeddings=seed % 2 == 0,
    )
    lm = T5GemmaForConditionalGeneration(config)
    lm.generation_config.update(decoder_start_token_id=0, bos_token_id=0, pad_token_id=1, eos_token_id=2)
    return _randomized(lm)


@lru_cache(maxsize=8)
def make_t5gemma2(seed: int) -> PreTrainedModel:
    """A T5Gemma 2 with random weights, with and without windows in its layers, which rotate differently."""
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "head_dim": 8,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "sliding_window": 4 + seed,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
        },
        "query_pre_attn_scalar": 8,
        "final_logit_softcapping": 3.0 if seed % 2 else None,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = T5Gemma2Config(
        encoder={
            "text_config": sizes,
            "vision_config": vision | {"image_size": 28, "patch_size": 14},
            "mm_tokens_per_image": 4,
        },
        decoder=sizes,
        image_token_index=3,
        eoi_token_index=4,
    )
    lm = T5Gemma2ForConditionalGeneration(config)
    lm.generation_config.update(decoder_start_token_id=0, bos_token_id=0, pad_token_id=1, eos_token_id=2)
    return _randomized(lm)


def _randomized(lm: PreTrainedModel) -> PreTrainedModel:
    with torch.no_grad():
        for parameter in lm.parameters():
            noise = torch.randn(parameter.shape)
            parameter.copy_(0.35 * noise if parameter.ndim > 1 else parameter + 0.1 * noise)
    return lm.eval()


def make_soft_prefix(seed: int, sentences: int = 4, count: int = 5) -> Tensor:
    """Random embeddings (S, N, D)."""
    return torch.randn(sentences, count, WIDTH, generator=torch.Generator().manual_seed(seed))
