"""The options of the test command, checked. Which models score is `settings.EvaluationSettings`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation.settings import EvaluationSettings

SENTENCE_MODEL_V1 = "sentence-transformers/all-mpnet-base-v2"


@dataclass(frozen=True)
class Options:
    """``num_candidates`` texts are sampled a source; ``seeds`` are those of the samples.

    ``frontier``: numbers of steps and guidance scales to be sampled with beside the table's own; ``interpolation``:
    texts halfway between real ones are measured too.
    """

    num_samples: int
    num_candidates: int
    seeds: list[int]
    split: str
    decodings: dict[str, DecodingConfig]
    settings: EvaluationSettings
    frontier: list[tuple[int, float]]
    interpolation: bool

    @classmethod
    def read(cls, generation: Mapping, evaluation: Mapping, recipe: str) -> "Options":
        """The options of a config's two groups for a model of a recipe version.

        Raises:
            ConfigError: a value that cannot work.
        """
        for name in ("num_samples", "num_candidates"):
            if generation[name] < 1:
                raise ConfigError(f"generation.{name} is {generation[name]}; it must be at least 1.")
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
        )


def _seeds(given: int | list[int] | None) -> list[int]:
    seeds = [given] if isinstance(given, int) else list(given or ())
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ConfigError(f"evaluation.seeds={seeds} must be different numbers from 0 on, as in [0,1,2].")
    return seeds


def _frontier(generation: Mapping, evaluation: Mapping) -> list[tuple[int, float]]:
    steps, scales = (list(evaluation[f"frontier_{name}"] or ()) for name in ("steps", "guidance"))
    if not all(isinstance(count, int) and count >= 1 for count in steps):
        raise ConfigError(
            f"evaluation.frontier_steps={steps} must be whole numbers from 1 on, as in [4,8,25]."
        )
    if not all(isinstance(scale, int | float) for scale in scales):
        raise ConfigError(f"evaluation.frontier_guidance={scales} must be numbers, as in [1,2,4].")
    if not steps and not scales:
        return []
    steps, scales = steps or [generation["sampling_steps"]], scales or [generation["guidance_scale"]]
    return [(count, float(scale)) for scale in scales for count in steps]


def _decodings(generation: Mapping) -> dict[str, DecodingConfig]:
    given = generation["strategies"]
    strategies = [given] if isinstance(given, str) else list(given or ())
    if not strategies:
        raise ConfigError(
            "generation.strategies is empty; give one or more, as in generation.strategies=[beam]."
        )
    known = {field.name for field in fields(DecodingConfig)} - {"strategy"}
    common = {key: value for key, value in generation.items() if key in known}
    return {strategy: DecodingConfig(strategy=strategy, **common) for strategy in strategies}
