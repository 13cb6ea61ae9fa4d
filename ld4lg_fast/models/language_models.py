"""The language model around a Perceiver: the states that it reads from a text, and the text it writes from latents.

`EncoderDecoder` (BART, T5, T5Gemma): the encoder gives the states, and the decoder attends to the memory.
`DecoderOnly` (Llama, Qwen, Gemma): a layer of the same model gives the states, and the memory is a soft prefix, that
is embeddings in front of the text (Li & Liang 2021, prefix-tuning; Lester et al. 2021, prompt tuning).
The memory is what the Perceiver expands latents to.

Letters: B batch, T tokens, N positions of the memory, W model width, V vocabulary.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.layers import compute_dtype

SCALE_TOKENS = 8192  # tokens whose embeddings are measured
# Keys of configs whose heads do more than a matmul: those of Gemma 2, Cohere and Granite.
CAPPED = ("final_logit_softcapping", "logit_scale", "logits_scaling")


@dataclass(frozen=True)
class Reading:
    """Which states of a decoder-only model are read.

    Args:
        layer: 1 … the number of layers; None for the middle one.
        bidirectional: whether a token attends to those after it, too.
    """

    layer: int | None = None
    bidirectional: bool = False


MIDDLE_LAYER = Reading()


class LanguageModel(ABC):
    """A language model of transformers as the autoencoder uses it."""

    def __init__(self, lm: PreTrainedModel) -> None:
        self.lm: Any = lm

    @property
    @abstractmethod
    def width(self) -> int:
        """W, of states and memory."""

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The network that writes the text, with its embeddings and without its head."""

    @property
    def start(self) -> int:
        """The token that the decoder reads before the text."""
        options = self.lm.generation_config
        start = options.decoder_start_token_id
        return options.bos_token_id if start is None else start

    @property
    def vocabulary(self) -> int:
        """V, the number of embeddings."""
        return self._embeddings.num_embeddings

    @abstractmethod
    def most_tokens(self, num_memory: int) -> int | None:
        """The most tokens of a text, of which none is the start token; None without a limit."""

    @abstractmethod
    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids (B, T) and their mask (B, T), True = keep -> states (B, T, W), undefined where they are masked."""

    @abstractmethod
    def hidden(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        """The decoder's last hidden states (B, T, W) over ``ids`` (B, T), which begin with the start token.

        ``memory`` (B, N, W); ``mask`` (B, N), True = keep, or None for all.
        """

    @abstractmethod
    def logits(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        """The logits (B, T, V) of the token after each of ``ids``; arguments as those of `hidden`."""

    def loss(
        self, memory: Tensor, mask: Tensor | None, labels: Tensor, targets: Tensor, end: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy of the tokens ``targets`` (B, T) while the decoder reads ``labels`` (B, T), shifted.

        -100 is padding in both. The logits of all positions are not in memory at once, but for heads that cap or scale
        their logits. ``end`` (W,): the row of the end
        of text in the head, while that is trained.
        """
        config = self.lm.config
        ids = torch.cat([labels.new_full((labels.shape[0], 1), self.start), labels[:, :-1]], dim=1)
        ids = ids.masked_fill(ids == -100, self._padding)
        if any(getattr(self.decoder.config, name, None) is not None for name in CAPPED):
            return F.cross_entropy(self.logits(memory, mask, ids).float().flatten(0, 1), targets.flatten())
        hidden = self.hidden(memory, mask, ids)
        if getattr(config, "scale_decoder_outputs", False):  # T5 and mT5 with tied embeddings
            hidden = hidden * config.d_model**-0.5
        head = self.lm.get_output_embeddings()
        bias = getattr(self.lm, "final_logits_bias", None)  # BART
        weight = head.weight
        if end is not None:
            weight = torch.cat([weight[: self._end], end[None], weight[self._end + 1 :]])
        return ops.linear_cross_entropy(hidden, weight, targets, head.bias if bias is None else bias[0])

    @torch.no_grad()
    def set_end(self, end: Tensor) -> None:
        """Makes ``end`` (W,) the row of the end of text in the head, and its embedding where they share weights."""
        self.lm.get_output_embeddings().weight[self._end] = end

    @property
    def _end(self) -> int:
        return self.lm.generation_config.eos_token_id

    @property
    def _embeddings(self) -> Any:
        return self.lm.get_input_embeddings()

    @property
    def _padding(self) -> int:
        pad = self.lm.generation_config.pad_token_id
        return self.start if pad is None else pad

    def _attention_bias(self, keep: Tensor) -> Tensor:
        """Additive attention bias (B, 1, T, T') of a mask ``keep`` (B, T, T').

        transformers computes the same from a token mask, but synchronises with the device to see if it masks anything.
        """
        dtype = compute_dtype(self._embeddings.weight)
        seen = torch.zeros(keep.shape, dtype=dtype, device=keep.device)
        return seen.masked_fill(~keep, torch.finfo(dtype).min)[:, None]


Encode = Callable[[Tensor, Tensor], Tensor]
"""(token ids (B, T), mask (B, T)) -> states (B, T, W), or (B, N, d) of latents."""


def one_by_one(encode: Encode, per_token: bool = True) -> Encode:
    """``encode`` of each text by itself and without padding, so that no text depends on the others of its batch.

    ``per_token``: whether the states are those of tokens; they are padded with zeros as the ids are.
    """

    def encoded(ids: Tensor, mask: Tensor) -> Tensor:
        lengths = mask.sum(1).clamp(min=1).tolist()
        rows = zip(ids.split(1), mask.split(1), lengths, strict=True)
        states = [encode(text[:, :length], real[:, :length]) for text, real, length in rows]
        if per_token:
            states = [F.pad(row, (0, 0, 0, ids.shape[1] - row.shape[1])) for row in states]
        return torch.cat(states)

    return encoded


def _for_each_query(mask: Tensor, queries: int) -> Tensor:
    """(B, T) -> (B, queries, T) bool."""
    return mask.bool()[:, None].expand(-1, queries, -1)


class EncoderDecoder(LanguageModel):
    """A model of ``AutoModelForSeq2SeqLM``; the memory are encoder states."""

    @property
    def width(self) -> int:
        return self.lm.get_encoder().config.get_text_config().hidden_size

    @property
    def decoder(self) -> Any:
        return self.lm.get_decoder()

    def most_tokens(self, num_memory: int) -> int | None:
        return getattr(self.decoder.config, "max_position_embeddings", None)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        bias = self._attention_bias(_for_each_query(mask, ids.shape[1]))
        return self.lm.get_encoder()(input_ids=ids, attention_mask=bias).last_hidden_state

    def hidden(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        cross = None if mask is None else self._attention_bias(_for_each_query(mask, ids.shape[1]))
        earlier = None
        if not hasattr(self.lm.config, "decoder"):  # T5Gemma makes masks of its own, some of them for windows
            earlier = torch.ones(1, *2 * ids.shape[1:], dtype=torch.bool, device=ids.device).tril()
            earlier = self._attention_bias(earlier)
        return self.decoder(
            input_ids=ids,
            attention_mask=earlier,
            encoder_hidden_states=memory,
            encoder_attention_mask=cross,
            use_cache=False,
        ).last_hidden_state

    def logits(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        return self.lm(
            encoder_outputs=BaseModelOutput(last_hidden_state=memory),
            attention_mask=None if mask is None else mask.long(),
            decoder_input_ids=ids,
            use_cache=False,
        ).logits


class DecoderOnly(LanguageModel):
    """A model of ``AutoModelForCausalLM`` with one list of layers; the memory is a soft prefix of the text.

    Every position of the memory is read, so it has no mask.

    Raises:
        ConfigError: a model of another structure, or a layer that it does not have.
    """

    def __init__(self, lm: PreTrainedModel, reading: Reading) -> None:
        super().__init__(lm)
        self.bidirectional = reading.bidirectional
        layers = getattr(self.decoder, "layers", None)
        if not isinstance(layers, nn.ModuleList):
            raise ConfigError(
                f"Decoder-only models of the type {lm.config.model_type!r} are not supported: their layers are not "
                "where those of Llama are; give a model of its architecture, such as SmolLM2, Qwen or Gemma."
            )
        self.layer = (len(layers) + 1) // 2 if reading.layer is None else reading.layer
        if self.layer > len(layers):
            raise ConfigError(
                f"autoencoder.layer={self.layer} is more than the {len(layers)} layers of the language model; give at "
                "most as many."
            )

    @property
    def width(self) -> int:
        return self.lm.config.get_text_config().hidden_size

    @property
    def decoder(self) -> Any:
        return self.lm.get_decoder()

    def most_tokens(self, num_memory: int) -> int | None:
        limit = getattr(self.lm.config.get_text_config(), "max_position_embeddings", None)
        return None if limit is None else limit - num_memory - 1

    @torch.no_grad()
    def embedding_scale(self) -> float:
        """Root mean square of the token embeddings, which a soft prefix is scaled to."""
        some = torch.arange(min(self.vocabulary, SCALE_TOKENS), device=self._embeddings.weight.device)
        return self._embeddings(some).square().mean().sqrt().item()

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        # The first token of a text takes attention that finds nothing else, and its state says little of itself: it is
        # the start token here (Xiao et al. 2023, attention sinks).
        first = ids.new_full((ids.shape[0], 1), self.start)
        bias = None
        if self.bidirectional:
            keep = torch.cat([mask.new_ones(mask.shape[0], 1), mask], dim=1)
            bias = self._attention_bias(_for_each_query(keep, keep.shape[1]))
        model = _first_layers(self.decoder, self.layer)
        ids = torch.cat([first, ids], dim=1)
        return model(input_ids=ids, attention_mask=bias, use_cache=False).last_hidden_state[:, 1:]

    def embeddings(self, memory: Tensor, ids: Tensor) -> Tensor:
        """The memory and the embeddings of ``ids`` behind it, (B, N + T, W)."""
        return torch.cat([memory, self._embeddings(ids)], dim=1)

    def hidden(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        embeddings = self.embeddings(memory, ids)
        return self.decoder(inputs_embeds=embeddings, use_cache=False).last_hidden_state[:, memory.shape[1] :]

    def logits(self, memory: Tensor, mask: Tensor | None, ids: Tensor) -> Tensor:
        embeddings = self.embeddings(memory, ids)
        return self.lm(inputs_embeds=embeddings, use_cache=False, logits_to_keep=ids.shape[1]).logits


def _first_layers(model: Any, count: int) -> Any:
    """A decoder that ends after ``count`` layers, with the last norm; it shares all weights."""
    part = copy.copy(model)
    part._modules = model._modules | {"layers": nn.ModuleList(list(model.layers)[:count])}
    return part


@torch.no_grad()
def cast_weights(lm: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """Converts in place what a model stores, None: nothing; not the frequencies of rotary positions, as ``to`` does."""
    for tensor in lm.state_dict(keep_vars=True).values():
        if dtype is not None and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    return lm


def language_model(lm: PreTrainedModel, reading: Reading) -> LanguageModel:
    """The interface of a language model; ``reading`` is for decoder-only ones.

    Raises:
        ConfigError: see `DecoderOnly`; or a ``reading`` for an encoder-decoder model.
    """
    if not lm.config.is_encoder_decoder:
        return DecoderOnly(lm, reading)
    if reading != MIDDLE_LAYER:
        raise ConfigError(
            f"autoencoder.layer and autoencoder.bidirectional are for decoder-only models, and {lm.config.model_type} "
            "has an encoder; leave them out."
        )
    return EncoderDecoder(lm)
