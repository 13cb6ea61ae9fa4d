"""Sampling more texts than are kept: those with the highest decoder log-probability, or nearest to a length.

Letters: B texts.
"""

from abc import ABC
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import WholeNumber, shown
from ld4lg_fast.options.checks import check, check_options, text_list
from ld4lg_fast.pipeline.latent_operations import LatentOperations
from ld4lg_fast.pipeline.length_guide import LengthGuide
from ld4lg_fast.pipeline.outputs import TextDiffusionOutput, check_free, chosen


class SelectionOperations(LatentOperations, ABC):
    """The part of `TextDiffusionPipeline` that samples more texts than it keeps."""

    def _most_confident(self, output: TextDiffusionOutput, num_samples: int) -> TextDiffusionOutput:
        """The ``num_samples`` samples with the highest `confidences`, in their order."""
        scores = self.confidences(output.latents, output.texts, output.mask)
        kept = scores.topk(num_samples).indices.sort().values.tolist()
        return chosen(output, kept, [output.texts[row] for row in kept])

    def token_counts(self, texts: str | Sequence[str]) -> Tensor:
        """Number of tokens of each text without special tokens, (B,) float32.

        Raises:
            ConfigError: no texts.
        """
        tokenizer = self.autoencoder.tokenizer
        tokens = tokenize_texts(text_list("texts", texts), tokenizer, self.autoencoder.max_len)
        return torch.from_numpy(tokens.lengths).float() - tokenizer.num_special_tokens_to_add()

    def learn_length(
        self, texts: Sequence[str] | None = None, num_samples: int = 256, **options: Any
    ) -> LengthGuide:
        """Fits a `LengthGuide` for `of_length`: a ridge regression of text length on latents, on a few hundred texts.

        Without ``texts`` it uses ``num_samples`` samples of the model, with ``quality="draft"`` and greedy decoding
        unless ``options`` of a call override them.

        Raises:
            ConfigError: fewer than 20 texts, texts of one length, options of a call together with texts, or a model of
                recipe v1, which takes the length as a condition.
        """
        if self.autoencoder.perceiver is None:
            raise ConfigError(
                "learn_length is not needed: a model of recipe v1 takes the length as a condition, see of_length."
            )
        check_options(num_samples=num_samples)
        if texts is None:
            output = self(num_samples, **{"quality": "draft", "decoding": "greedy"} | options)
            latents, texts = output.latents, output.texts
        else:
            check_free("learn_length from texts", options, *options)
            texts = text_list("texts", texts)
            latents = self.encode(texts)[0]
        return LengthGuide.fit(self.model.normalize(latents), self.token_counts(texts).to(self.device))

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
        guide: LengthGuide | None = None,
        pull: float = 0.5,
        **options: Any,
    ) -> TextDiffusionOutput:
        """Texts of about ``length`` tokens (see `token_counts`), by selection and by guidance.

        Samples ``best_of`` times ``num_samples`` texts and keeps those nearest in length. With a ``guide``
        (`learn_length`) every predicted x_start is first moved along the gradient of the squared length error
        (Dhariwal & Nichol 2021), which is exact and cheap as the guide is linear. A model of recipe v1 takes the length
        as a condition; the texts with the highest `confidences` are kept. Lengths that no training text has are not
        reached.

        Args:
            pull: in [0, 1], the fraction of the length error that each prediction is corrected by; 1 costs fluency.
            options: those of a call, except ``steer`` with a guide, and ``lengths`` in recipe v1.

        Raises:
            ConfigError: a length that the model does not handle, ``best_of`` below 1, ``pull`` out of range, a guide
                of another model, or an option that is set here.
        """
        num_samples, count = self._counts(num_samples, best_of)
        (pull,) = check_options(pull=pull)
        self._check_guide(guide)
        special = self.check_length(length)
        if self.autoencoder.perceiver is None:
            check_free("of_length", options, "lengths")
            lengths = torch.full((count,), length + special)
            return self(num_samples, best_of=best_of, lengths=lengths, **options)
        if guide is not None:
            check_free("of_length with a guide", options, "steer")
            options["steer"] = partial(guide.to(self.device).steer, length=length, pull=pull)
        output = self(count, **options)
        misses = (self.token_counts(output.texts) - length).abs()
        kept = misses.argsort(stable=True)[:num_samples].sort().values.tolist()
        return chosen(output, kept, [output.texts[row] for row in kept])

    def _check_guide(self, guide: LengthGuide | None) -> None:
        if guide is None:
            return
        if not isinstance(guide, LengthGuide):
            raise ConfigError(f"guide is {shown(guide)}; it must be what learn_length gives.")
        shape, latents = (
            tuple(guide.weight.shape),
            (self.autoencoder.num_latents, self.autoencoder.dim_latent),
        )
        if self.autoencoder.perceiver is None:
            raise ConfigError(
                "guide was given, but a model of recipe v1 takes the length as a condition; leave it out."
            )
        if shape != latents:
            raise ConfigError(
                f"guide is one of latents {shape}; this model's are {latents}: give what its own learn_length gives."
            )
