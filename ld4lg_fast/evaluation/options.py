"""The options of the test command, checked, and the settings of the metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import Number, Rule, Switch, Text, WholeNumber
from ld4lg_fast.options.checks import RULES, check
from ld4lg_fast.options.groups import RUN, SAMPLING, Groups, ListOf, Name, OrNull, Path, TableOf

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
    """Scoring models (hub names, folders or ``.gguf`` files; None omits their metrics) and their settings.

    Args:
        mauve_model: a causal language model; features are the last hidden state of the last token.
        sentence_model: an encoder; features are its mean hidden state.
        perplexity_model: a causal language model.
        bertscore_model, bertscore_layer: an encoder and its hidden layer; None: the published layer.
        mauve_scaling_factor, sentence_scaling_factor: MAUVE's c for the two kinds of features.
        max_length: maximum number of tokens for features.
        batch_size: texts per batch in these models.

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


GROUPS: Groups = {
    "infer": {**RUN, "ckpt_path": OrNull(Path())},
    "generation": {
        **SAMPLING,
        "num_samples": RULES["num_samples"],
        "max_new_tokens": OrNull(RULES["max_new_tokens"]),
        "strategy": OrNull(ListOf(Text())),
    },
    "evaluation": {
        **{name: OrNull(rule) if name in MAY_BE_NONE else rule for name, rule in SETTINGS.items()},
        "report": OrNull(Path()),
        "seeds": ListOf(RULES["seed"]),
        "split": Text(),
        "frontier_steps": ListOf(RULES["num_inference_steps"]),
        "frontier_guidance": ListOf(RULES["guidance_scale"]),
        "interpolation": Switch(),
        "guide_data": OrNull(TableOf(Path())),
        "guide_weights": ListOf(RULES["guide_scale"]),
        "reference_seed": OrNull(RULES["seed"]),
    },
    "dataset": {
        "name": OrNull(Name()),
        "root": OrNull(Path()),
        "hub": OrNull(Text()),
        "limit": OrNull(WholeNumber()),
    },
}
"""Rules of the entries of ``configs/test.yaml``."""

SENTENCE_MODEL_V1 = "sentence-transformers/all-mpnet-base-v2"


@dataclass(frozen=True)
class Options:
    """Options of the test command.

    ``num_candidates``: samples per source. ``frontier``: further (steps, guidance scale) settings to sample with.
    ``guide_weights``: of guides that are judged. ``interpolation``: whether texts halfway between real ones are
    measured, too.
    """

    num_samples: int
    num_candidates: int
    seeds: list[int]
    split: str
    decodings: dict[str, DecodingConfig]
    settings: EvaluationSettings
    frontier: list[tuple[int, float]]
    interpolation: bool
    guide_weights: list[float]

    @classmethod
    def read(cls, generation: Mapping, evaluation: Mapping, recipe: str) -> "Options":
        """The options of the config groups ``generation`` and ``evaluation``, for a recipe version.

        Raises:
            ConfigError: an invalid value.
        """
        known = {field.name for field in fields(EvaluationSettings)}
        chosen = {key: value for key, value in evaluation.items() if key in known}
        if chosen["sentence_model"] == "auto":
            chosen["sentence_model"] = SENTENCE_MODEL_V1 if recipe == "v1" else None
        return cls(
            num_samples=generation["num_samples"],
            num_candidates=generation["num_candidates"],
            seeds=_seeds(evaluation["seeds"]),
            split=evaluation["split"],
            decodings=_decodings(generation),
            settings=EvaluationSettings(**chosen),
            frontier=_frontier(generation, evaluation),
            interpolation=evaluation["interpolation"],
            guide_weights=_weights(evaluation["guide_weights"]),
        )


def _seeds(given: int | list[int]) -> list[int]:
    seeds = [given] if isinstance(given, int) else list(given)
    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"evaluation.seeds={seeds} must be different numbers from 0 on, as in [0,1,2].")
    return seeds


def _weights(given: float | list[float]) -> list[float]:
    weights = given if isinstance(given, list) else [given]
    if not weights:
        raise ConfigError("evaluation.guide_weights is empty; give one or more, as in [0,3].")
    return list(dict.fromkeys(map(float, weights)))


def _frontier(generation: Mapping, evaluation: Mapping) -> list[tuple[int, float]]:
    given = (evaluation["frontier_steps"], evaluation["frontier_guidance"])
    steps, scales = (list(entry) if isinstance(entry, list) else [entry] for entry in given)
    if not steps and not scales:
        return []
    steps, scales = steps or [generation["num_inference_steps"]], scales or [generation["guidance_scale"]]
    return [(count, float(scale)) for scale in scales for count in steps]


def _decodings(generation: Mapping) -> dict[str, DecodingConfig]:
    given = generation["strategy"]
    strategies = [given] if isinstance(given, str) else list(given)
    if not strategies:
        raise ConfigError("generation.strategy is empty; give one or more, as in generation.strategy=[beam].")
    known = {field.name for field in fields(DecodingConfig)} - {"strategy"}
    common = {key: value for key, value in generation.items() if key in known}
    return {strategy: DecodingConfig(strategy=strategy, **common) for strategy in strategies}
