"""Text sampling as the official release does it: denoise, decompress, ``generate``, batch after batch.

Letters: B batch, N latents, d latent width, M source length.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder
from benchmarks.reference.v2_diffusion import GaussianDiffusion

LIMITS = {"max_length": 64, "min_length": 5, "no_repeat_ngram_size": 3, "repetition_penalty": 1.2}
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "beam": {**LIMITS, "do_sample": False, "num_beams": 4},
    "nucleus": {**LIMITS, "do_sample": True, "num_beams": 1, "top_p": 0.95},
}


class TextPipeline:
    """An encoder-decoder language model, a Perceiver around its waist, a diffusion process over its latents.

    Random numbers come from torch's global generator, as published: ``torch.manual_seed`` fixes them for one
    batch size.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        autoencoder: PerceiverAutoencoder,
        diffusion: GaussianDiffusion,
    ) -> None:
        self.lm, self.tokenizer = lm.eval(), tokenizer
        self.autoencoder, self.diffusion = autoencoder.eval(), diffusion.eval()

    @torch.no_grad()
    def sample_latents(self, batch: int, **conditions) -> Tensor:
        """Latents (B, N, d) in the autoencoder's scale; conditions as in ``GaussianDiffusion.sample``."""
        return self.diffusion.unnormalize_latent(self.diffusion.sample(batch, **conditions))

    @torch.no_grad()
    def decode(self, latents: Tensor, strategy: str = "beam") -> list[str]:
        """Texts of latents (B, N, d); the language model's decoder attends to all states, without a mask."""
        states = BaseModelOutput(last_hidden_state=self.autoencoder.decode(latents))
        ids = self.lm.generate(encoder_outputs=states, **STRATEGIES[strategy])
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
        return [text.strip() for text in texts]

    @torch.no_grad()
    def encode_sources(self, sources: list[str], max_len: int = 64) -> dict[str, Tensor]:
        """What conditions a sequence-to-sequence model: encoder states (B, M, W) and their mask (B, M)."""
        tokens = self.tokenizer(
            sources, padding="max_length", truncation=True, max_length=max_len, return_tensors="pt"
        ).to(self.lm.device)
        encoder = self.lm.get_encoder()
        states = encoder(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state
        return {"seq2seq_cond": states, "seq2seq_mask": tokens.attention_mask.bool()}

    def __call__(
        self,
        num_samples: int,
        batch_size: int,
        strategy: str = "beam",
        class_id: int | None = None,
        cls_free_guidance: float = 1.0,
    ) -> list[str]:
        """Unconditional or class-conditional texts; empty ones are thrown away and made up for.

        Raises:
            RuntimeError: a whole batch decoded to nothing.
        """
        texts: list[str] = []
        while len(texts) < num_samples:
            ids = None
            if class_id is not None:
                ids = torch.full((batch_size,), class_id, device=self.diffusion.latent_mean.device)
            latents = self.sample_latents(batch_size, class_id=ids, cls_free_guidance=cls_free_guidance)
            batch = [text for text in self.decode(latents, strategy) if text]
            if not batch:
                raise RuntimeError(f"all {batch_size} texts of a batch are empty; is the model trained?")
            texts += batch
        return texts[:num_samples]

    def from_sources(
        self, sources: list[str], batch_size: int, strategy: str = "beam", cls_free_guidance: float = 2.0
    ) -> list[str]:
        """One text for each source; predictions are projected where the latents are l2-normalised."""
        texts: list[str] = []
        for start in range(0, len(sources), batch_size):
            rows = sources[start : start + batch_size]
            conditions = self.encode_sources(rows)
            latents = self.sample_latents(
                len(rows),
                cls_free_guidance=cls_free_guidance,
                l2_normalize=self.autoencoder.perceiver_encoder.l2_normalize_latents,
                **conditions,
            )
            texts += self.decode(latents, strategy)
        return texts
