"""The language autoencoder: a language model that reads and writes texts, with a Perceiver between the two.

Lovelace et al. 2023, section 4. Letters: B batch, T tokens, N latents, d latent width, W model width.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ld4lg_fast.autoencoder import latent_checks, storage
from ld4lg_fast.autoencoder.pretrained import Origin, fetched
from ld4lg_fast.autoencoder.teacher_forcing import TeacherForcing
from ld4lg_fast.checkpoints.language_model import BUILDING
from ld4lg_fast.decoding import DecodingConfig, generate_ids
from ld4lg_fast.decoding.reranking import choose_by_risk, choose_by_score
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.similarity import SCORE
from ld4lg_fast.models.language_models import (
    MIDDLE_LAYER,
    DecoderOnly,
    LanguageModel,
    Reading,
    language_model,
    one_by_one,
)
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig


class LanguageAutoencoder(TeacherForcing):
    """Text to latents and back.

    With a `Perceiver` (recipe v2) the latents are N vectors of width d. Without one (recipe v1) they are the encoder's
    hidden states, one per token, with the tokens' mask.

    Args:
        reading: which states of a decoder-only language model are read.
        origin: where the language model came from; None for one that was trained from scratch.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        perceiver: Perceiver | None,
        max_len: int,
        freeze_lm: bool,
        reading: Reading = MIDDLE_LAYER,
        origin: Origin | None = None,
    ) -> None:
        super().__init__()
        self.lm, self.tokenizer, self.perceiver = lm, tokenizer, perceiver
        self.max_len, self.freeze_lm, self.reading, self.origin = max_len, freeze_lm, reading, origin
        self.end_of_text: nn.Parameter | None = None
        self.deterministic = False  # whether a text may not depend on the others of its batch
        if freeze_lm:
            lm.requires_grad_(False)

    @classmethod
    def from_scratch(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        lm: Mapping,
        perceiver: Mapping | None,
        max_len: int = 64,
        max_positions: int | None = None,
    ) -> "LanguageAutoencoder":
        """A small, randomly initialised BART model, to be trained together with the Perceiver.

        Args:
            lm: ``dim`` (a multiple of 64), ``encoder_layers``, ``decoder_layers``, ``dropout``.
            perceiver: ``num_latents``, ``dim_latent``, ``depth``, ``l2_normalize``; None for recipe v1.
            max_positions: maximum number of encoder tokens, if sources are longer than ``max_len``.
        """
        dim = lm["dim"]
        if dim < DIM_HEAD or dim % DIM_HEAD:
            raise ConfigError(f"Language model width {dim} must be a positive multiple of {DIM_HEAD}.")
        config = BartConfig(
            vocab_size=len(tokenizer),
            max_position_embeddings=max_positions or max_len,
            d_model=dim,
            encoder_layers=lm["encoder_layers"],
            decoder_layers=lm["decoder_layers"],
            encoder_attention_heads=dim // DIM_HEAD,
            decoder_attention_heads=dim // DIM_HEAD,
            encoder_ffn_dim=4 * dim,
            decoder_ffn_dim=4 * dim,
            dropout=lm["dropout"],
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=tokenizer.eos_token_id,
            # BART's default 0.02 is for widths from 768 on; narrow models then learn to use latents very slowly.
            init_std=dim**-0.5,
        )
        with BUILDING:
            language_model = BartForConditionalGeneration(config)
        return cls._assemble(language_model, tokenizer, perceiver, max_len, False)

    @classmethod
    def from_pretrained_lm(
        cls,
        name_or_path: str,
        perceiver: Mapping | None,
        max_len: int = 64,
        freeze_lm: bool = True,
        reading: Reading = MIDDLE_LAYER,
        store_lm: bool = True,
        trust_remote_code: bool = False,
    ) -> "LanguageAutoencoder":
        """A pretrained language model by hub name, local folder or GGUF file, see `pretrained.fetched`.

        Args:
            store_lm: whether `save` writes the language model, or its name and hash alone.
            trust_remote_code: see `pretrained.fetched`.

        Raises:
            CheckpointError: see `pretrained.fetched`.
            ConfigError: the model does not handle texts of ``max_len`` tokens, has no layer of that number, or has no
                encoder where there is no Perceiver; or it is to be stored and has Python code of its own.
        """
        found = fetched(name_or_path, trust_remote_code)
        if found.runs_code and store_lm:
            raise ConfigError(
                f"{name_or_path} has Python code of its own, which no run directory holds; give "
                "autoencoder.store_lm=false beside autoencoder.trust_remote_code=true."
            )
        model = language_model(found.lm, reading)
        if perceiver is None and isinstance(model, DecoderOnly):
            raise ConfigError(
                f"recipe=v1 needs a language model with an encoder, and {name_or_path} has none; use recipe=v2 or v3."
            )
        self = cls._assemble(found.lm, found.tokenizer, perceiver, max_len, freeze_lm, reading)
        self.origin = found.origin if store_lm else found.origin.with_weights(found.lm, name_or_path)
        limit = self.most_tokens
        if limit is not None and limit < max_len:
            raise ConfigError(
                f"{name_or_path} handles at most {limit} tokens, but max_len is {max_len}; lower it."
            )
        if isinstance(model, DecoderOnly) and self.perceiver is not None:
            # The decoder's states are embeddings, and begin with their scale.
            nn.init.constant_(self.perceiver.decoder.norm.weight, model.embedding_scale())
        if found.lacks_end:
            head = found.lm.get_output_embeddings().weight
            self.end_of_text = nn.Parameter(head[found.tokenizer.eos_token_id].detach().clone())
        return self

    @classmethod
    def _assemble(
        cls,
        lm: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        perceiver: Mapping | None,
        max_len: int,
        freeze_lm: bool,
        reading: Reading = MIDDLE_LAYER,
    ) -> "LanguageAutoencoder":
        if perceiver is None:
            return cls(lm, tokenizer, None, max_len, freeze_lm)
        try:
            config = PerceiverConfig(dim_lm=language_model(lm, reading).width, max_len=max_len, **perceiver)
        except TypeError as error:
            raise ConfigError(f"The Perceiver's configuration is wrong: {error}.") from error
        return cls(lm, tokenizer, Perceiver(config), max_len, freeze_lm, reading)

    @property
    def language_model(self) -> LanguageModel:
        """The interface of ``lm``."""
        return language_model(self.lm, self.reading)

    @property
    def trains_perceiver_alone(self) -> bool:
        """Whether all other weights are frozen."""
        return self.end_of_text is None and not any(weight.requires_grad for weight in self.lm.parameters())

    @property
    def most_tokens(self) -> int | None:
        """The most tokens of a text that the language model handles beside its memory; None without a limit."""
        states = 0 if self.perceiver is None else self.perceiver.config.num_states
        return self.language_model.most_tokens(states)

    @property
    def num_latents(self) -> int:
        return self.max_len if self.perceiver is None else self.perceiver.config.num_latents

    @property
    def dim_latent(self) -> int:
        return self.language_model.width if self.perceiver is None else self.perceiver.config.dim_latent

    def check_latents(self, latents: Tensor, mask: Tensor | None = None) -> None:
        """Checks shape, dtype and values of latents.

        Raises:
            ConfigError: see `latent_checks.check_latents`.
        """
        sizes = (self.num_latents, self.dim_latent)
        latent_checks.check_latents(latents, mask, sizes, fewer=self.perceiver is None)

    def train(self, mode: bool = True) -> "LanguageAutoencoder":
        super().train(mode)
        if self.freeze_lm:
            self.lm.eval()
        if self.end_of_text is not None:
            self.language_model.set_end(self.end_of_text)
        return self

    def encode(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor | None = None) -> Tensor:
        """Token ids (B, T) and their mask (B, T), True = keep -> latents (B, N, d) (v1: (B, T, W)).

        ``states`` (B, at least T, W): the language model's for these tokens, if they are known.

        Raises:
            ConfigError: more than ``max_len`` tokens.
        """
        if input_ids.shape[1] > self.max_len:
            raise ConfigError(
                f"A sequence of {input_ids.shape[1]} tokens exceeds max_len {self.max_len}; truncate it."
            )
        with gpu_settings(input_ids.device):
            if self.deterministic and states is None:
                return one_by_one(self._encode, per_token=self.perceiver is None)(input_ids, attention_mask)
            return self._encode(input_ids, attention_mask, states)

    def _encode(self, input_ids: Tensor, attention_mask: Tensor, states: Tensor | None = None) -> Tensor:
        if states is None:
            states = self.language_model.encode(input_ids, attention_mask)
        states = states[:, : input_ids.shape[1]]
        return states if self.perceiver is None else self.perceiver.encode(states, attention_mask)

    def decode_states(self, latents: Tensor) -> Tensor:
        """Latents (B, N, d) -> states (B, N, W) for the language model's decoder: its memory, or a soft prefix."""
        if self.perceiver is None:
            return latents
        latents = latents.to(next(self.perceiver.decoder.parameters()).dtype)
        with gpu_settings(latents.device):
            if self.deterministic:
                return torch.cat([self.perceiver.decode(row) for row in latents.split(1)])
            return self.perceiver.decode(latents)

    def readable_states(self, latents: Tensor, mask: Tensor | None = None) -> Tensor:
        """`decode_states` of checked latents and their mask (B, N).

        Raises:
            ConfigError: the states are not finite, as the latents are too large.
        """
        states = self.decode_states(latents)
        # With a Perceiver every state depends on all latents.
        latent_checks.check_finite(states, mask if self.perceiver is None else None)
        return states

    forward = TeacherForcing.loss

    @torch.no_grad()
    def generate(
        self,
        latents: Tensor,
        decoding: DecodingConfig,
        seed: int | Sequence[int] = 0,
        sample_ids: Tensor | None = None,
        mask: Tensor | None = None,
        prefix: Tensor | None = None,
        pause: Callable[[], object] | None = None,
    ) -> list[list[int]]:
        """Token ids decoded from latents (B, N, d), special tokens removed; ``mask`` (B, N) for recipe v1.

        ``seed``, ``sample_ids``: of nucleus sampling, and ``pause``: see `generate_ids`.
        ``prefix``: (B, P) int64, the last tokens of the text before, which the decoder reads first; the result is
        without them.

        Raises:
            ConfigError: see `check_latents`.
        """
        self.check_latents(latents, mask)
        states = self.readable_states(latents, mask)
        options: dict[str, Any] = {"mask": mask, "seed": seed, "sample_ids": sample_ids, "prefix": prefix}
        options["pause"] = pause
        options["deterministic"] = self.deterministic
        decodes = [
            generate_ids(self.lm, states, decoding, self.max_len, decode=number, **options)
            for number in range(decoding.num_decodes)
        ]
        special = set(self.tokenizer.all_special_ids)
        first = 1 if prefix is None else 1 + prefix.shape[1]
        rows = [
            [[token for token in row if token not in special] for row in ids[:, first:].tolist()]
            for ids in decodes
        ]
        if len(rows) == 1:
            return rows[0]
        if decoding.choose_decode == SCORE:
            chosen = choose_by_score(self.language_model, states, decodes, mask)
        else:
            chosen = choose_by_risk([self.decode_text(ids) for ids in rows], decoding.choose_decode)
        return [rows[number][latent] for latent, number in enumerate(chosen)]

    def decode_text(self, ids: list[list[int]]) -> list[str]:
        """Token ids -> texts without special tokens and surrounding whitespace."""
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]

    def save(self, directory: Path | str) -> None:
        """Saves language model, tokenizer and Perceiver in a folder; see `storage.save`.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written to.
        """
        parts = storage.Parts(
            self.lm, self.tokenizer, self.perceiver, self.max_len, self.freeze_lm, self.reading, self.origin
        )
        storage.save(parts, Path(directory))

    @classmethod
    def load(
        cls, directory: Path | str, trust_remote_code: bool = False, dtype: torch.dtype | None = None
    ) -> "LanguageAutoencoder":
        """Loads the result of `save`, in evaluation mode.

        Args:
            trust_remote_code: see `pretrained.fetched`.
            dtype: of all weights, to which those of the language model are converted as they are read; None: float32.

        Raises:
            CheckpointError: the folder holds no autoencoder, is damaged, or has another format.
        """
        self = cls(**vars(storage.load(Path(directory), trust_remote_code, dtype))).eval()
        if self.perceiver is not None:
            self.perceiver.to(dtype=dtype)
        return self
