"""Language models with random weights, of bart-base's size and of the config ``small``."""

from transformers import BartConfig, BartForConditionalGeneration

SIZES = {
    "bart-base": {"d_model": 768, "layers": 6, "vocab_size": 50265},
    "small": {"d_model": 128, "layers": 2, "vocab_size": 1024},
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
