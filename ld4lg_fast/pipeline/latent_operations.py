"""Operations on the latents of given texts: encoding, interpolation, analogies, variation, editing.

Letters: B texts, N latent positions, d latent width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.decoding.reranking import model_scores
from ld4lg_fast.engine.engine import check_fits
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import Number
from ld4lg_fast.models.layers import project_to_sphere
from ld4lg_fast.options.checks import check_options, check_texts, numbers, text_list
from ld4lg_fast.pipeline.base import PipelineBase
from ld4lg_fast.pipeline.decode import checked_decoding
from ld4lg_fast.pipeline.outputs import SampledLatents, TextDiffusionOutput, check_free


def slerp(first: Tensor, second: Tensor, share: float | Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985) of vectors (…, d) with linear norms; ``share`` 0 gives ``first``."""
    norms = (first.norm(dim=-1, keepdim=True), second.norm(dim=-1, keepdim=True))
    one, other = first / norms[0].clamp(min=1e-12), second / norms[1].clamp(min=1e-12)
    angle = (one * other).sum(-1, keepdim=True).clamp(-1, 1).acos()
    near = angle < 1e-4  # interpolated linearly
    safe = angle.where(~near, torch.ones_like(angle))
    weights = [torch.where(near, part, (part * safe).sin() / safe.sin()) for part in (1 - share, share)]
    return (weights[0] * one + weights[1] * other) * ((1 - share) * norms[0] + share * norms[1])


class LatentOperations(PipelineBase, ABC):
    """The part of `TextDiffusionPipeline` that starts from texts."""

    @abstractmethod
    def decode(
        self, latents: Tensor, decoding: DecodingConfig | str | None = None, *, mask: Tensor | None = None
    ) -> list[str]: ...

    def _counts(self, num_samples: int, best_of: int) -> tuple[int, int]:
        """Numbers of texts to keep and to sample, after a check that the memory holds those to sample."""
        num_samples, best_of = check_options(num_samples=num_samples, best_of=best_of)
        name = "num_samples" if best_of == 1 else "num_samples times best_of"
        return num_samples, check_fits(self.model, num_samples * best_of, name)

    @abstractmethod
    def sample(self, *arguments: Any, **options: Any) -> SampledLatents: ...

    @abstractmethod
    def __call__(self, *arguments: Any, **options: Any) -> TextDiffusionOutput: ...

    @torch.no_grad()
    def encode(self, texts: str | Sequence[str], batch_size: int = 64) -> tuple[Tensor, Tensor | None]:
        """Latents (B, N, d) float32 of texts (or of one text) for `decode`, and in recipe v1 their mask (B, N).

        Texts are truncated to the model's maximum length.

        Raises:
            ConfigError: no texts, or ``batch_size`` below 1.
        """
        texts = text_list("texts", texts)
        (batch_size,) = check_options(batch_size=batch_size)
        autoencoder, limit = self.autoencoder, self.autoencoder.max_len
        tokens = tokenize_texts(texts, autoencoder.tokenizer, limit)
        latents, masks = [], []
        for start in range(0, len(texts), batch_size):
            rows = [tokens[row] for row in range(start, min(start + batch_size, len(texts)))]
            padded = collate(rows, autoencoder.tokenizer.pad_token_id, max_len=limit)
            ids, mask = (tensor.to(self.device) for tensor in padded)
            encoded = autoencoder.encode(ids, mask).float()
            if autoencoder.perceiver is None:
                encoded = torch.nn.functional.pad(encoded * mask[..., None], (0, 0, 0, limit - ids.shape[1]))
                masks.append(torch.nn.functional.pad(mask.bool(), (0, limit - ids.shape[1])))
            latents.append(encoded)
        return torch.cat(latents), torch.cat(masks) if masks else None

    def interpolate(
        self, first: str, second: str, num_texts: int = 5, decoding: DecodingConfig | str | None = None
    ) -> list[str]:
        """``num_texts`` texts decoded between two texts, the reconstructions of both included; see `between`.

        Raises:
            ConfigError: fewer than 2 texts.
        """
        check_texts(first=first, second=second)
        num_texts = check_fits(self.model, num_texts, "num_texts")
        decoding = checked_decoding(decoding, self.decoding, self.autoencoder)
        shares = torch.linspace(0, 1, num_texts)
        latents, mask = self.between([first] * num_texts, [second] * num_texts, shares)
        return self.decode(latents, decoding, mask=mask)

    def between(
        self, first: Sequence[str], second: Sequence[str], shares: Tensor | Sequence[float]
    ) -> tuple[Tensor, Tensor | None]:
        """Latents (B, N, d) interpolated between pairs of texts at ``shares`` (B,) in [0, 1], and in v1 their mask.

        Latent vectors are interpolated by `slerp`; in recipe v1 lengths are interpolated linearly.

        Raises:
            ConfigError: no texts, different numbers of texts, or shares outside [0, 1].
        """
        first, second = text_list("first", first), text_list("second", second)
        shares, count = numbers("shares", shares, Number(0, 1), len(first), self.device), len(first)
        if len(second) != count:
            raise ConfigError(f"There are {count} texts in first and {len(second)} in second; give as many.")
        latents, mask = self.encode([*first, *second])
        way = slerp(latents[:count], latents[count:], shares[:, None, None])
        if mask is None:
            return way, None
        lengths = mask.sum(dim=1).float()
        between = ((1 - shares) * lengths[:count] + shares * lengths[count:]).round()
        return way, torch.arange(mask.shape[1], device=mask.device) < between[:, None]

    def analogy(
        self,
        text: str,
        was: str,
        becomes: str,
        *,
        amount: float = 1.0,
        decoding: DecodingConfig | str | None = None,
    ) -> str:
        """The decoding of latents(text) + amount · (latents(becomes) - latents(was)), after Mikolov et al. 2013.

        It works best if ``was`` shares most words with ``text``.

        Raises:
            ConfigError: a model of recipe v1, whose latents have no fixed size, or ``amount`` is not a number.
        """
        check_texts(text=text, was=was, becomes=becomes)
        (amount,) = check_options(amount=amount)
        decoding = checked_decoding(decoding, self.decoding, self.autoencoder)
        if self.autoencoder.perceiver is None:
            raise ConfigError(
                "analogy needs latents of one size for all texts; use vary with this model (recipe v1)."
            )
        start, before, after = self.encode([text, was, becomes])[0]
        latents = start + amount * (after - before)
        if self.autoencoder.perceiver.config.l2_normalize:
            latents = project_to_sphere(latents)
        return self.decode(latents[None], decoding)[0]

    def vary(
        self, text: str, num_samples: int = 4, *, strength: float = 0.5, **options: Any
    ) -> TextDiffusionOutput:
        """Variations of a text: its latents are noised to time ``strength`` and denoised (SDEdit, Meng et al. 2022).

        Args:
            strength: in (0, 1]; at 1 nothing of the text is left.
            options: those of a call, except best_of, start and lengths.

        Raises:
            ConfigError: ``strength`` out of range, or an option that is set here.
        """
        check_free("vary", options, "best_of", "start", "lengths")
        check_texts(text=text)
        check_options(strength=strength)
        num_samples = check_fits(self.model, num_samples)
        latents, mask = self.encode([text])
        lengths = None if mask is None else mask.sum(dim=1).expand(num_samples)
        start = latents.expand(num_samples, -1, -1)
        return self(num_samples, start=start, strength=strength, lengths=lengths, **options)

    def edit(
        self, texts: str | Sequence[str], *, strength: float = 0.5, **options: Any
    ) -> TextDiffusionOutput:
        """A variation of each of ``texts`` under other conditions: ``edit(texts, class_name="Sports")``.

        Args:
            strength: in (0, 1], see `vary`.
            options: those of a call, except best_of, start and lengths; one class or source, or one for each text.

        Raises:
            ConfigError: ``strength`` out of range, no texts, or an option that is set here.
        """
        check_free("edit", options, "num_samples", "best_of", "start", "lengths")
        check_options(strength=strength)
        texts = text_list("texts", texts)
        latents, mask = self.encode(texts)
        lengths = None if mask is None else mask.sum(dim=1)
        return self(len(texts), start=latents, strength=strength, lengths=lengths, **options)

    @torch.no_grad()
    def confidences(
        self,
        latents: Tensor,
        texts: str | Sequence[str],
        mask: Tensor | None = None,
        batch_size: int = 64,
    ) -> Tensor:
        """The decoder's mean log-probability per token of each text given its latents (B, N, d): (B,) float32.

        ``mask`` (B, N): that of the latents in recipe v1.

        Raises:
            ConfigError: latents or a mask of another shape than the model's, or another number of texts.
        """
        self.autoencoder.check_latents(latents, mask)
        (batch_size,) = check_options(batch_size=batch_size)
        texts = text_list("texts", texts)
        if len(texts) != len(latents):
            raise ConfigError(f"There are {len(texts)} texts for {len(latents)} latents; give one for each.")
        lm, tokenizer = self.autoencoder.language_model, self.autoencoder.tokenizer
        max_len = self.autoencoder.max_len
        tokens = tokenize_texts(texts, tokenizer, max_len)
        scores = []
        if self.autoencoder.deterministic:
            batch_size = 1
        for start in range(0, len(texts), batch_size):
            rows = slice(start, start + batch_size)
            ids = [[lm.start, *tokens[row]] for row in range(len(texts))[rows]]
            padded, _ = collate(ids, tokenizer.pad_token_id, max_len=max_len + 1)
            kept = None if mask is None else mask[rows]
            states = self.autoencoder.readable_states(latents[rows], kept).to(lm.lm.dtype)
            scores.append(model_scores(lm, states, padded.to(self.device), kept))
        return torch.cat(scores)
