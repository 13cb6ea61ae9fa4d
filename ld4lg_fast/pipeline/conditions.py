"""Conditions of a call of the pipeline: classes, source texts and lengths, checked and made one for each sample."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.conditions import check_classes, check_sources
from ld4lg_fast.export.runtime.option_checks import WholeNumber
from ld4lg_fast.options.checks import as_config_errors, whole_numbers
from ld4lg_fast.pipeline.statistics import RunStatistics


def source_texts(
    model: LatentDiffusion, source: Sequence[str] | str | None, num_samples: int
) -> list[str] | None:
    """One source for each sample, or None for a model that takes none.

    Raises:
        ConfigError: sources missing, superfluous, blank or of another number.
    """
    with as_config_errors():
        given = check_sources(model.is_seq2seq, source, num_samples, "infer.source_file=FILE")
    return [given] * num_samples if isinstance(given, str) else given


def chosen_classes(
    model: LatentDiffusion,
    statistics: RunStatistics,
    class_id: int | Sequence[int] | Tensor | None,
    class_name: str | None,
    seed: int,
    sample_ids: Tensor,
) -> Tensor | None:
    """An id (num_samples,) for each sample, or None for a model without classes.

    Without a class: the null class if the model was also trained without classes, else classes sampled by (seed,
    sample id) from their frequencies in the training texts.

    Raises:
        ConfigError: a class that the model does not have.
    """
    with as_config_errors():
        chosen = check_classes(statistics.class_names or (), class_id, class_name, len(sample_ids))
    if not statistics.class_names:
        return None
    if chosen is not None:
        return torch.tensor(chosen, device=sample_ids.device).expand(len(sample_ids))
    # Recipe v1 takes the null class whether or not it was trained (golden NOTES 59).
    if model.diffusion.discrete or model.diffusion.class_drop_prob > 0:
        return torch.full_like(sample_ids, len(statistics.class_names))
    return statistics.draw_classes(seed, sample_ids)


def real_lengths(
    model: LatentDiffusion,
    statistics: RunStatistics,
    lengths: Tensor | None,
    seed: int,
    sample_ids: Tensor,
    padded: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Real positions (num_samples,) of each sample and their mask (num_samples, N); None and None if not ``padded``.

    Lengths that are not given are sampled, by (seed, sample id), from the lengths of the training texts.

    Raises:
        ConfigError: lengths for a model whose texts all have the same number of latents (recipe v2), or lengths
            that it does not handle.
        CheckpointError: the run has no lengths of its training texts.
    """
    if not padded:
        if lengths is not None:
            raise ConfigError(
                "lengths were given, but this model's texts have no length of their own (recipe v2); leave them out."
            )
        return None, None
    device, longest = sample_ids.device, model.denoiser.config.max_len
    if lengths is None:
        lengths = statistics.draw_lengths(seed, sample_ids)
    else:
        lengths = whole_numbers("lengths", lengths, WholeNumber(1, longest), len(sample_ids), device)
    return lengths, torch.arange(longest, device=device) < lengths[:, None]
