"""Augmentations for a smooth latent space in autoencoder training: noise, dropped latents, corrupted tokens.

Letters: B texts, T tokens, N latents, d latent width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ld4lg_fast.errors import ConfigError


@dataclass(frozen=True)
class Draws:
    """Random numbers for every ``world_size``-th text of a batch from ``rank`` on.

    They are sampled for the whole batch, so that they do not depend on how it is split. ``generator`` None is torch's
    default.
    """

    generator: torch.Generator | None = None
    rank: int = 0
    world_size: int = 1

    def __call__(self, draw: Callable[..., Tensor], like: Tensor, *shape: int) -> Tensor:
        """Samples of ``draw`` (`torch.rand` or `torch.randn`), ``shape`` for each row of ``like``, on its device."""
        device = self.generator.device if self.generator else like.device
        whole = draw(like.shape[0] * self.world_size, *shape, generator=self.generator, device=device)
        mine = whole[self.rank :: self.world_size]
        if mine.device == like.device:
            return mine
        return mine.pin_memory().to(like.device, non_blocking=True)


class Augmentation(Protocol):
    """Interface of an augmentation of token ids and latents in training."""

    def corrupt_tokens(
        self, ids: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase, max_len: int, draws: Draws, /
    ) -> Tensor: ...

    def augment_latents(self, latents: Tensor, draws: Draws, /) -> Tensor: ...


def add_noise(latents: Tensor, noise: Tensor, share: Tensor | float) -> Tensor:
    """``√(1-s)·latents + √s·noise`` (B, N, d), with standard normal noise scaled to each text's latents."""
    noise = noise * latents.detach().std(dim=(1, 2), keepdim=True)
    return (1 - share) ** 0.5 * latents + share**0.5 * noise


@dataclass(frozen=True)
class LatentAugmentation:
    """Maximum strengths; the strength for each text is sampled uniformly between 0 and the maximum.

    Args:
        decoder_noise: the decoder gets ``√(1-s)·latents + √s·noise``, with the noise scaled to the text's latents, so
            that it tolerates imperfect samples (Shabalin et al. 2024, TEncDM).
        position_dropout: probability that a latent is zeroed for the decoder (Meshchaninov et al. 2025, Cosmos).
        token_masking: probability that the encoder's token is replaced by a random one of the vocabulary; the decoder
            reconstructs the original text (Lewis et al. 2020, BART; Cosmos).

    Raises:
        ConfigError: a share outside [0, 1].
    """

    decoder_noise: float = 0.0
    position_dropout: float = 0.0
    token_masking: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1:
                raise ConfigError(f"autoencoder.{name}={value}; it must lie between 0 and 1.")

    def corrupt_tokens(
        self, ids: Tensor, mask: Tensor, tokenizer: PreTrainedTokenizerBase, max_len: int, draws: Draws
    ) -> Tensor:
        """Token ids (B, T) for the encoder; special tokens are kept."""
        if not self.token_masking:
            return ids
        share = draws(torch.rand, ids, 1) * self.token_masking
        # Sampled for ``max_len`` positions, as the parts of a batch may be padded to different lengths.
        hit = (draws(torch.rand, ids, max_len) < share)[:, : ids.shape[1]] & mask.bool()
        other = (draws(torch.rand, ids, max_len) * len(tokenizer)).long()[:, : ids.shape[1]]
        for special in tokenizer.all_special_ids:
            hit = hit & (ids != special)
        return torch.where(hit, other, ids)

    def augment_latents(self, latents: Tensor, draws: Draws) -> Tensor:
        """Latents (B, N, d) for the decoder."""
        if self.decoder_noise:
            share = draws(torch.rand, latents, 1, 1).to(latents) * self.decoder_noise
            noise = draws(torch.randn, latents, *latents.shape[1:]).to(latents)
            latents = add_noise(latents, noise, share)
        if self.position_dropout:
            share = draws(torch.rand, latents, 1, 1) * self.position_dropout
            latents = latents * (draws(torch.rand, latents, latents.shape[1], 1) >= share)
        return latents


NO_AUGMENTATION = LatentAugmentation()
