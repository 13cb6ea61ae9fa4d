"""The autoencoder's training loss: teacher-forced reconstruction of texts, or of blocks after the blocks before them.

Letters: B batch, T tokens, N latents, d latent width, W model width.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION, Augmentation, Draws
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.layers import compute_dtype
from ld4lg_fast.models.perceiver import Perceiver


def for_each_query(mask: Tensor) -> Tensor:
    """(B, T) -> (B, T, T) bool."""
    return mask.bool()[:, None].expand(-1, mask.shape[1], -1)


class TeacherForcing(nn.Module, ABC):
    """The part of `LanguageAutoencoder` that computes its loss."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    perceiver: Perceiver | None
    max_len: int

    @abstractmethod
    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor: ...

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
    ) -> Tensor:
        """Teacher-forced cross-entropy of reconstructing the text, without padding; a scalar.

        Args:
            generator: for the augmentation.
            rank, world_size: these texts are every ``world_size``-th of a larger batch, from ``rank`` on.
            labels, targets: the tokens that the decoder reads and those of them that count, (B, T') int64, -100 where
                there are none; by default the text and all of it.
        """
        draws = Draws(generator, rank, world_size)
        read = augmentation.corrupt_tokens(input_ids, attention_mask, self.tokenizer, self.max_len, draws)
        latents = augmentation.augment_latents(self.encode(read, attention_mask), draws)
        if labels is None:
            labels = input_ids.masked_fill(~attention_mask.bool(), -100)
        if targets is None:
            targets = labels
        cross = None if self.perceiver is not None else self.attention_bias(for_each_query(attention_mask))
        return self._language_model_loss(self.decode_states(latents), cross, labels, targets)

    def attention_bias(self, keep: Tensor) -> Tensor:
        """Additive attention bias (B, 1, N, M) of a mask ``keep`` (B, N, M).

        transformers computes the same from a token mask, but synchronises with the device to see if it masks anything.
        """
        embeddings: Any = self.lm.get_input_embeddings()
        dtype = compute_dtype(embeddings.weight)
        seen = torch.zeros(keep.shape, dtype=dtype, device=keep.device)
        return seen.masked_fill(~keep, torch.finfo(dtype).min)[:, None]

    def _language_model_loss(
        self, states: Tensor, cross: Tensor | None, labels: Tensor, targets: Tensor
    ) -> Tensor:
        """The language model's loss, without the logits of all positions in memory at once.

        The decoder reads ``labels`` (B, T), shifted; ``targets`` (B, T) count where they are not -100.
        """
        earlier = torch.ones(1, *2 * labels.shape[1:], dtype=torch.bool, device=labels.device).tril()
        hidden = self.lm.get_decoder()(
            input_ids=self.lm.prepare_decoder_input_ids_from_labels(labels),  # type: ignore[operator]  # a method
            attention_mask=self.attention_bias(earlier),
            encoder_hidden_states=states,
            encoder_attention_mask=cross,
            use_cache=False,
        ).last_hidden_state
        if getattr(self.lm.config, "scale_decoder_outputs", False):  # T5 and mT5 with tied embeddings
            hidden = hidden * self.lm.config.d_model**-0.5
        bias = getattr(self.lm, "final_logits_bias", None)  # BART
        weight = self.lm.get_output_embeddings().weight
        return ops.linear_cross_entropy(hidden, weight, targets, None if bias is None else bias[0])
