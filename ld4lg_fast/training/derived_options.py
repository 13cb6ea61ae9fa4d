"""Options that follow from config and corpus together: number of classes, source length, decoding."""

from collections.abc import Mapping

from ld4lg_fast.data import TextDataset
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError


def number_of_classes(config: Mapping, dataset: TextDataset) -> int:
    """Number of classes that the denoiser is conditioned on, 0 for none.

    Raises:
        DataError: ``recipe.class_conditional`` or the dataset needs classes, but the texts have no labels.
    """
    asked = config["recipe"]["class_conditional"]
    if asked is False:
        return 0
    if asked is True or config["dataset"].get("num_classes"):
        dataset.require_labels()
    return dataset.num_classes or 0


def source_limit(config: Mapping, dataset: TextDataset) -> int | None:
    """The most tokens of a source text that the denoiser attends to; None without sources.

    Raises:
        ConfigError: the recipe has no sequence-to-sequence mode, or ``dataset.source_max_len`` is null.
        DataError: the corpus has no source texts.
    """
    corpus = config["dataset"]
    if not corpus.get("seq2seq") and not corpus.get("source_column"):
        return None
    if config["recipe"]["version"] == "v1":
        raise ConfigError(
            f"recipe=v1 cannot be conditioned on the source texts of dataset={dataset.name}; use recipe=v2, "
            "or dataset.seq2seq=false to learn the target texts alone."
        )
    dataset.require_sources()
    limit = corpus.get("source_max_len")
    if limit is None:
        raise ConfigError("dataset.source_max_len is null; give the most tokens of a source, as in 64.")
    return limit


def chosen_decoding(config: Mapping, from_sources: bool) -> DecodingConfig:
    """The config group ``decoding``; ``strategy=auto`` is nucleus sampling, or beam search with source texts.

    Raises:
        ConfigError: an unknown option, or a value out of range.
    """
    given = dict(config.get("decoding") or {})
    if given.get("strategy") == "auto":
        given["strategy"] = "beam" if from_sources else "nucleus"
    return DecodingConfig.of(given, "decoding")
