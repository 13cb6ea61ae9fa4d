"""Sampling more texts than are kept: those with the highest decoder log-probability, or nearest to a length."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import torch

from ld4lg_fast.export.runtime.option_checks import WholeNumber
from ld4lg_fast.options.checks import check, check_given
from ld4lg_fast.pipeline.guide_operations import GuideOperations
from ld4lg_fast.pipeline.outputs import TextDiffusionOutput, check_free, chosen
from ld4lg_fast.pipeline.text_guide import LENGTH


class SelectionOperations(GuideOperations, ABC):
    """The part of `TextDiffusionPipeline` that samples more texts than it keeps."""

    def _most_confident(
        self, output: TextDiffusionOutput, num_samples: int, options: Mapping[str, Any]
    ) -> TextDiffusionOutput:
        """The ``num_samples`` samples with the highest `confidences` plus `_guide_scores`, in their order."""
        scores = self.confidences(output.latents, output.texts, output.mask).cpu()
        scores += self._guide_scores(output.texts, options.get("guides"), options.get("guide_scales"))
        kept = scores.topk(num_samples).indices.sort().values.tolist()
        return chosen(output, kept, [output.texts[row] for row in kept])

    def check_length(self, length: int) -> int:
        """Refuses a length in tokens that the model does not handle; returns the number of special tokens of a text."""
        special = self.autoencoder.tokenizer.num_special_tokens_to_add()
        check("length", length, WholeNumber(1, self.autoencoder.max_len - special))
        return special

    def of_length(
        self,
        num_samples: int,
        length: int,
        *,
        best_of: int = 4,
        guide_scale: float | None = None,
        **options: Any,
    ) -> TextDiffusionOutput:
        """Texts of about ``length`` tokens (see `token_counts`), by selection and by guidance.

        Samples ``best_of`` times ``num_samples`` texts and keeps those nearest in length; with a ``guide_scale`` the
        guide ``length`` leads sampling, too. A model of recipe v1 takes the length as a condition; the texts with the
        highest `confidences` are kept. Lengths that no training text has are not reached.

        Args:
            guide_scale: weight of the guide ``length``; None is without. Other ``guides`` lead the texts, too.
            options: those of a call, except ``lengths`` in recipe v1.

        Raises:
            ConfigError: a length that the model does not handle, ``best_of`` below 1, a guide_scale for recipe v1, or
                an option that is set here.
        """
        num_samples, count = self._counts(num_samples, best_of)
        check_given(guide_scale=guide_scale)
        special = self.check_length(length)
        if guide_scale is not None:
            for name, value in (("guides", length), ("guide_scales", guide_scale)):
                others = options.get(name)
                if others is None or isinstance(others, Mapping):  # else it is refused where it is read
                    options[name] = {**(others or {}), LENGTH: value}
        if self.autoencoder.perceiver is None:
            check_free("of_length", options, "lengths")
            lengths = torch.full((count,), length + special)
            return self(num_samples, best_of=best_of, lengths=lengths, **options)
        output = self(count, **options)
        misses = (self.token_counts(output.texts) - length).abs()
        kept = misses.argsort(stable=True)[:num_samples].sort().values.tolist()
        return chosen(output, kept, [output.texts[row] for row in kept])
