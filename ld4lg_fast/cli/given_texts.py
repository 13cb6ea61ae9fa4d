"""What `scripts/infer.py` and ``ld4lg sample`` write from: sources and prompts, given or read from files."""

from pathlib import Path

from ld4lg_fast.errors import ConfigError, DataError, LD4LGError
from ld4lg_fast.export.runtime.text_display import typed
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.sources import read_sources

DEFAULT_SAMPLES = 16


def choose_prompts(
    prompt: str | None, file: Path | str | None, options: tuple[str, str] = ("--prompt", "--prompt-file")
) -> list[str] | None:
    """The prompt of all samples, or those of a file; None without either.

    Args:
        options: their names, for messages.

    Raises:
        ConfigError: both were given.
        DataError: the file cannot be read, or has no text.
    """
    if prompt is not None and file is not None:
        raise ConfigError(f"{options[0]} and {options[1]} {file} exclude each other; give one of them.")
    if file is not None:
        return read_sources(Path(file), kind="prompt")
    return None if prompt is None else [typed(prompt)]


def choose_sources(
    pipe: TextDiffusionPipeline,
    run_dir: Path,
    source_file: str | None,
    num_samples: int | None,
    num_candidates: int,
) -> tuple[list[str] | None, list[str] | None]:
    """The sources of a sequence-to-sequence model, and their references where known; else None twice.

    They are those of the file (all of them, or ``num_samples``), else the first of the run's test set.

    Raises:
        ConfigError: sources or candidates for a model that takes none, or too few of either.
        DataError: the file, or the run's corpus, cannot be read.
    """
    if not pipe.model.is_seq2seq:
        if source_file is not None:
            raise ConfigError(
                f"infer.source_file={source_file} is for models that were trained with source texts."
            )
        if num_candidates > 1:
            raise ConfigError(
                f"generation.num_candidates={num_candidates} is for models trained with source texts."
            )
        return None, None
    if source_file is not None:
        sources = read_sources(Path(source_file))
        if num_samples is not None and num_samples > len(sources):
            raise ConfigError(
                f"generation.num_samples={num_samples} is more than the {len(sources)} sources of "
                f"{source_file}."
            )
        return sources[:num_samples], None
    from ld4lg_fast.evaluation.references import load_dataset

    try:
        dataset = load_dataset(run_dir, {})
        dataset.require_sources()
    except LD4LGError as error:
        raise DataError(
            "This model writes from a source text; give some with infer.source_file=FILE, as the test set of "
            f"its corpus cannot be read ({error})."
        ) from error
    count = min(DEFAULT_SAMPLES if num_samples is None else num_samples, len(dataset.test))
    return list((dataset.test.sources or [])[:count]), list(dataset.test.texts[:count])
