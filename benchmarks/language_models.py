"""Language models with random weights, of bart-base's size and of the config ``small``, and decoder-only ones."""

from transformers import BartConfig, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM

SIZES = {
    "bart-base": {"d_model": 768, "layers": 6, "vocab_size": 50265},
    "small": {"d_model": 128, "layers": 2, "vocab_size": 1024},
}
CAUSAL_SIZES = {
    # SmolLM2-135M (Ben Allal et al. 2025)
    "smollm2-135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
    },
    "small-causal": {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    },
}


def random_bart(size: str, **options) -> BartForConditionalGeneration:
    """A BART of one of `SIZES`, with heads 64 wide, and further ``options`` of its config."""
    d_model, layers = SIZES[size]["d_model"], SIZES[size]["layers"]
    sides = {}
    for side in ("encoder", "decoder"):
        sides |= {
            f"{side}_layers": layers,
            f"{side}_attention_heads": d_model // 64,
            f"{side}_ffn_dim": 4 * d_model,
        }
    config = BartConfig(vocab_size=SIZES[size]["vocab_size"], d_model=d_model, **sides, **options)
    return BartForConditionalGeneration(config).eval()


def random_llama(size: str, **options) -> LlamaForCausalLM:
    """A Llama of one of `CAUSAL_SIZES` with tied embeddings, and further ``options`` of its config."""
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = LlamaConfig(tie_word_embeddings=True, **CAUSAL_SIZES[size], **special, **options)
    return LlamaForCausalLM(config).eval()
