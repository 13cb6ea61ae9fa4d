"""The conditions that texts are sampled under, checked: classes, source texts and lengths."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import MOST, WholeNumber, elements, plain, shown
from ld4lg_fast.options.checks import check_texts, whole_numbers
from ld4lg_fast.pipeline.statistics import RunStatistics, describe_classes


def source_texts(
    model: LatentDiffusion, source: Sequence[str] | str | None, num_samples: int
) -> list[str] | None:
    """One source for each sample, or None for a model that takes none.

    Raises:
        ConfigError: sources missing, superfluous, blank or of another number.
    """
    if not model.is_seq2seq:
        if source is not None:
            raise ConfigError(
                "A source text was given, but this model was trained without source texts; leave source out."
            )
        return None
    if source is None:
        raise ConfigError(
            "This model writes from a source text; give source=..., or infer.source_file=FILE on the "
            "command line."
        )
    given = [source] if isinstance(source, str) else elements(source)
    if given is None:
        raise ConfigError(f"source is {shown(source)}; give a text or a list of them.")
    sources = given * num_samples if isinstance(source, str) else given
    if len(sources) != num_samples:
        raise ConfigError(f"There are {len(sources)} sources for {num_samples} samples; give one for each.")
    for place, text in enumerate(given):
        name = "source" if isinstance(source, str) else f"source[{place}]"
        check_texts(**{name: text})
        if not text.strip():
            raise ConfigError(f"{name} is blank; give a text.")
    return sources


def chosen_classes(
    model: LatentDiffusion,
    statistics: RunStatistics,
    class_id: int | Sequence[int] | Tensor | None,
    class_name: str | None,
    seed: int,
    sample_ids: Tensor,
) -> Tensor | None:
    """An id (num_samples,) for each sample, or None for a model without classes.

    Without a wish: the null class where the model was also trained without classes, else drawn from (seed, sample id)
    as often as in the training texts.

    Raises:
        ConfigError: a class that the model does not have.
    """
    num_classes = model.denoiser.config.num_classes
    if not num_classes:
        if class_id is not None or class_name is not None:
            given = f"class_id {shown(class_id)}" if class_name is None else f"class_name {shown(class_name)}"
            raise ConfigError(f"{given} was given, but this model was trained without classes; leave it out.")
        return None
    if class_id is not None and class_name is not None:
        raise ConfigError(
            f"class_id {shown(class_id)} and class_name {shown(class_name)} exclude each other; give one of them."
        )
    if class_name is not None:
        class_id = statistics.class_index(class_name)
    if class_id is None:
        # Recipe v1 takes the null class whether or not it was trained (golden NOTES 59).
        if model.diffusion.discrete or model.diffusion.class_drop_prob > 0:
            return torch.full_like(sample_ids, num_classes)
        return statistics.draw_classes(seed, sample_ids)
    ids = elements(class_id)
    numbers: list[Any] = [class_id] if ids is None else ids
    for number in numbers:
        if not WholeNumber(-MOST, MOST).allows(number):
            raise ConfigError(f"class_id {shown(class_id)} must be an integer, or one for each sample.")
        if not 0 <= number < num_classes:
            raise ConfigError(
                f"class_id {plain(number)} is out of range; this model has "
                f"{describe_classes(statistics.class_names or ())}."
            )
    if ids is not None and len(ids) != len(sample_ids):
        raise ConfigError(f"class_id has {len(ids)} entries; give one id or {len(sample_ids)} of them.")
    return torch.tensor(plain(class_id) if ids is None else ids, device=sample_ids.device).expand(
        len(sample_ids)
    )


def real_lengths(
    model: LatentDiffusion,
    statistics: RunStatistics,
    lengths: Tensor | None,
    seed: int,
    sample_ids: Tensor,
    padded: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Real positions (num_samples,) of each sample and their mask (num_samples, N), or None twice where not ``padded``.

    Without a wish they are drawn from (seed, sample id) as in the training texts.

    Raises:
        ConfigError: lengths for a model whose texts all have the same number of latents (recipe v2), or lengths
            that it does not handle.
        CheckpointError: the run does not say how long its training texts were.
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
