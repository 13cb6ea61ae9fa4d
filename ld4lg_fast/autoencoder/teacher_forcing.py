"""The autoencoder's training loss: teacher-forced reconstruction of texts, or of blocks after the blocks before them.

Letters: B batch, T tokens, N latents, d latent width, W model width.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION, Augmentation, Draws
from ld4lg_fast.models.language_models import LanguageModel
from ld4lg_fast.models.perceiver import Perceiver


class TeacherForcing(nn.Module, ABC):
    """The part of `LanguageAutoencoder` that computes its loss."""

    tokenizer: PreTrainedTokenizerBase
    perceiver: Perceiver | None
    max_len: int
    end_of_text: nn.Parameter | None

    @property
    @abstractmethod
    def language_model(self) -> LanguageModel: ...

    @abstractmethod
    def encode(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor | None = None) -> Tensor: ...

    @abstractmethod
    def decode_states(self, latents: Tensor) -> Tensor: ...

    def loss(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        augmentation: Augmentation = NO_AUGMENTATION,
        generator: torch.Generator | None = None,
        rank: int = 0,
        world_size: int = 1,
        labels: Tensor | None = None,
        targets: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """Teacher-forced cross-entropy of reconstructing the text, without padding; a scalar.

        Args:
            generator: for the augmentation.
            rank, world_size: these texts are every ``world_size``-th of a larger batch, from ``rank`` on.
            labels, targets: the tokens that the decoder reads and those of them that count, (B, T') int64, -100 where
                there are none; by default the text and all of it.
            states: the language model's for the tokens, (B, at least T, W), if they are known.
        """
        draws = Draws(generator, rank, world_size)
        read = augmentation.corrupt_tokens(input_ids, attention_mask, self.tokenizer, self.max_len, draws)
        latents = augmentation.augment_latents(self.encode(read, attention_mask, states), draws)
        if labels is None:
            labels = input_ids.masked_fill(~attention_mask.bool(), -100)
        if targets is None:
            targets = labels
        mask = None if self.perceiver is not None else attention_mask
        lm, end = self.language_model, self.end_of_text
        if end is not None:
            lm.set_end(end)
        return lm.loss(self.decode_states(latents), mask, labels, targets, end)
