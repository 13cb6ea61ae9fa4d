"""Language models with one layer and random weights, shared by the tests."""

from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration


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
