"""Language models with few layers and random weights, shared by the tests."""

import torch
import transformers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)


def tiny_bart(vocab_size: int, width: int = 64, **options) -> BartForConditionalGeneration:
    """A BART with one head; its special ids are BART's own, as those of the tests' tokenizer.

    Args:
        options: further arguments of ``BartConfig``.
    """
    sizes = {"layers": 1, "attention_heads": 1, "ffn_dim": width}
    both = {f"{part}_{name}": size for part in ("encoder", "decoder") for name, size in sizes.items()}
    config = BartConfig(
        vocab_size=vocab_size, d_model=width, **({"max_position_embeddings": 64} | both | options)
    )
    return BartForConditionalGeneration(config)


def tiny_t5(vocab_size: int, num_heads: int = 4) -> T5ForConditionalGeneration:
    """A T5 of version 1.1, 64 wide, with the special ids of the tests' tokenizer: 1 pads and starts, 2 ends."""
    config = T5Config(
        vocab_size=vocab_size,
        d_model=64,
        d_kv=64 // num_heads,
        d_ff=64,
        num_layers=1,
        num_heads=num_heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=1,
        pad_token_id=1,
        eos_token_id=2,
    )
    return T5ForConditionalGeneration(config)


DECODER_ONLY = ("llama", "smollm2", "mistral", "qwen2", "qwen3", "gemma")
ENCODER_DECODER = ("bart", "mbart", "marian", "pegasus", "t5", "mt5", "byt5", "t5gemma", "t5gemma2")
# The special ids of the tests' tokenizer.
SPECIAL = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}


def tiny_decoder_only(name: str, vocab_size: int, **options) -> PreTrainedModel:
    """A model of `DECODER_ONLY`, 64 wide, with two layers and grouped queries.

    Args:
        options: further arguments of the config.
    """
    kind = {"smollm2": "Llama"}.get(name, name.capitalize())
    own = {"smollm2": {"tie_word_embeddings": True}, "qwen2": {"tie_word_embeddings": True}}.get(name, {})
    config = getattr(transformers, f"{kind}Config")
    model = getattr(transformers, f"{kind}ForCausalLM")
    return model(config(vocab_size=vocab_size, **(LLAMA_LIKE | SPECIAL | own | options))).eval()


def tiny_encoder_decoder(name: str, vocab_size: int) -> PreTrainedModel:
    """A model of `ENCODER_DECODER`, 64 wide, with one layer on each side."""
    if name in ("t5", "byt5"):
        return tiny_t5(vocab_size).eval()
    if name == "mt5":
        config = tiny_t5(vocab_size).config.to_dict() | {"model_type": "mt5", "architectures": None}
        return transformers.MT5ForConditionalGeneration(transformers.MT5Config.from_dict(config)).eval()
    if name == "t5gemma":
        text = transformers.T5GemmaModuleConfig(
            vocab_size=vocab_size,
            **(LLAMA_LIKE | SPECIAL | {"query_pre_attn_scalar": 16, "num_hidden_layers": 1}),
        ).to_dict()
        config = transformers.T5GemmaConfig(encoder=text, decoder=text, vocab_size=vocab_size, **SPECIAL)
        return transformers.T5GemmaForConditionalGeneration(config).eval()
    if name == "t5gemma2":
        sizes = (
            LLAMA_LIKE
            | SPECIAL
            | {"vocab_size": vocab_size, "query_pre_attn_scalar": 16, "num_hidden_layers": 1}
        )
        vision = {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
        }
        vision |= {"image_size": 28, "patch_size": 14}
        config = transformers.T5Gemma2Config(
            encoder={"text_config": sizes, "vision_config": vision, "mm_tokens_per_image": 4},
            decoder=sizes,
            image_token_index=3,
            **SPECIAL,
        )
        return transformers.T5Gemma2ForConditionalGeneration(config).eval()
    if name == "bart":
        return tiny_bart(vocab_size).eval()
    kind = {"mbart": "MBart", "marian": "Marian", "pegasus": "Pegasus"}[name]
    model = transformers.MarianMTModel
    if name != "marian":
        model = getattr(transformers, f"{kind}ForConditionalGeneration")
    config = getattr(transformers, f"{kind}Config")
    known = tiny_bart(vocab_size).config.to_dict() | SPECIAL | {"decoder_start_token_id": 2}
    known |= {"model_type": name, "architectures": None, "decoder_vocab_size": vocab_size}
    return model(config.from_dict(known)).eval()


def spread(lm: PreTrainedModel, std: float = 0.3, seed: int = 0) -> PreTrainedModel:
    """Gives all matrices random values of that size, so that what the model writes depends on what it reads."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() >= 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)
    lm.tie_weights()
    return lm
