"""What to measure and with which models."""

from dataclasses import dataclass

from ld4lg_fast.export.runtime.option_checks import Number, Rule, Text, WholeNumber
from ld4lg_fast.options.checks import check

SETTINGS: dict[str, Rule] = {
    "mauve_model": Text(),
    "mauve_scaling_factor": (scale := Number(0, 1000, above=True)),
    "sentence_model": Text(),
    "sentence_scaling_factor": scale,
    "perplexity_model": Text(),
    "bertscore_model": Text(),
    "bertscore_layer": WholeNumber(0, 1000),
    "max_length": WholeNumber(),
    "batch_size": WholeNumber(),
}
MAY_BE_NONE = ("mauve_model", "sentence_model", "perplexity_model", "bertscore_model", "bertscore_layer")


@dataclass(frozen=True)
class EvaluationSettings:
    """Models are hub names, local folders or ``.gguf`` files; None leaves the metrics that need them out.

    Args:
        mauve_model: a causal language model; the features are its last token's last hidden state.
        sentence_model: an encoder; the features are its mean over the tokens.
        perplexity_model: a causal language model.
        bertscore_model, bertscore_layer: an encoder and which hidden layer of it; None takes the published
            layer, where the model has one.
        mauve_scaling_factor, sentence_scaling_factor: MAUVE's c for the two kinds of features.
        max_length: tokens of a text that features see.
        batch_size: texts a batch in these models.

    Raises:
        ConfigError: a value out of range.
    """

    mauve_model: str | None = "gpt2-large"
    mauve_scaling_factor: float = 5.0
    sentence_model: str | None = None
    sentence_scaling_factor: float = 8.0
    perplexity_model: str | None = "gpt2-large"
    bertscore_model: str | None = "microsoft/deberta-xlarge-mnli"
    bertscore_layer: int | None = None
    max_length: int = 256
    batch_size: int = 32

    def __post_init__(self) -> None:
        for name, rule in SETTINGS.items():
            value = getattr(self, name)
            if value is not None or name not in MAY_BE_NONE:
                check(f"evaluation.{name}", value, rule)
