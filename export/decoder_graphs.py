"""The text decoder as ONNX graphs. Its caches are written in place, shared by beams and never reordered.

As in `ld4lg_fast.decoding.stack`, the beams of a sentence attend to the cache of all of them, and ``bias`` selects
the slots of a beam's own past.

Letters: S sentences, W beams, T cached tokens, N latent positions, d latent width, H heads, K head width,
V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.decoding.families import Decoder, read_decoder
from ld4lg_fast.engine.precision import PlainLinear
from ld4lg_fast.export.causal_graphs import NAME, CausalStep, PrefixToCache, check_causal, written
from ld4lg_fast.export.graph import Graph, cache_names
from ld4lg_fast.export.runtime.language_model import SPAN
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline


class LatentsToCache(nn.Module):
    """Latents (S, N, d) to each decoder layer's cross-attention keys and values (S, H, N, K), which the beams share."""

    def __init__(self, pipe: TextDiffusionPipeline, decoder: Decoder) -> None:
        super().__init__()
        self.autoencoder, self.decoder = pipe.autoencoder, decoder

    def forward(self, latents: Tensor) -> list[Tensor]:
        dtype, heads = self.autoencoder.lm.dtype, self.decoder.heads
        states = self.autoencoder.decode_states(latents.to(dtype)).to(dtype)
        split = [layer.cross_kv(states).unflatten(2, (2, heads, -1)) for layer in self.decoder.layers]
        return [tensor.transpose(1, 2) for both in split for tensor in both.unbind(2)]


class DecoderStep(nn.Module):
    """One token for each beam: ``tokens`` (S, W) and caches to logits (S, W, V) and the caches with it."""

    def __init__(self, decoder: Decoder, max_length: int) -> None:
        super().__init__()
        self.decoder, self.position_bias = decoder, None
        if decoder.position_bias is not None:
            self.position_bias = decoder.position_bias(max_length)

    def forward(
        self,
        tokens: Tensor,
        position: Tensor,
        bias: Tensor,
        past: list[Tensor],
        cross: list[Tensor],
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """``past`` (S, H, T, W, K) and ``cross`` (S, H, N, K): key, value, key, value, … of each layer. The tokens
        are at ``position`` (1,) < T; ``bias`` (S, W, T·W) is 0 where a beam sees that slot of ``past``, else -inf.
        ``mask`` (S, N): recipe v1's real positions."""
        decoder, dtype = self.decoder, past[0].dtype
        bias = bias[:, None].to(dtype)
        if self.position_bias is not None:
            span = torch.arange(past[0].shape[2])
            relative = self.position_bias.index_select(0, position).index_select(2, span)[..., None, None]
            relative = relative.expand(-1, -1, -1, 1, past[0].shape[3]).flatten(2).unsqueeze(2)
            bias = bias + relative
        cross_bias = None
        if mask is not None:
            cross_bias = torch.where(mask[:, None, None], 0.0, torch.finfo(dtype).min).to(dtype)
        x, present = decoder.embed(tokens.flatten(), position), []
        for index, layer in enumerate(decoder.layers):
            inputs = layer.self_norm(x) if decoder.pre_norm else x
            query, *new = (
                layer.qkv(inputs).unflatten(0, tokens.shape).unflatten(2, (3, decoder.heads, -1)).unbind(2)
            )
            own = past[2 * index : 2 * index + 2]
            own = [written(old, tensor, position) for old, tensor in zip(own, new, strict=True)]
            present += own
            keys, values = (tensor.flatten(2, 3) for tensor in own)
            x = layer.self_out(self._attend(query, keys, values, bias), x)
            x = x if decoder.pre_norm else layer.self_norm(x)
            query = layer.cross_q(layer.cross_norm(x) if decoder.pre_norm else x)
            query = query.unflatten(0, tokens.shape).unflatten(2, (decoder.heads, -1))
            keys, values = cross[2 * index : 2 * index + 2]
            x = layer.cross_out(self._attend(query, keys, values, cross_bias), x)
            x = x if decoder.pre_norm else layer.cross_norm(x)
            hidden = layer.ff_in(layer.ff_norm(x) if decoder.pre_norm else x)
            x = layer.ff_out(hidden if layer.activation is None else layer.activation(hidden), x)
            x = x if decoder.pre_norm else layer.ff_norm(x)
        logits = decoder.head(decoder.final(x)).float()
        return [logits.unflatten(0, tokens.shape), *present]

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Queries (S, W, H, K) over keys and values (S, H, P, K) -> (S·W, H·K)."""
        scores = (query * self.decoder.scale).transpose(1, 2) @ keys.transpose(2, 3)
        weights = (scores if bias is None else scores + bias).softmax(-1)
        return (weights @ values).transpose(1, 2).flatten(2).flatten(0, 1)


class CacheGrowth(nn.Module):
    """Caches of ``sentences`` (S',) alone, with room for `SPAN` more tokens."""

    def forward(
        self, sentences: Tensor, past: list[Tensor], cross: list[Tensor], mask: Tensor | None = None
    ) -> list[Tensor]:
        past = [tensor.index_select(0, sentences) for tensor in past]
        grown = [nn.functional.pad(tensor, (0, 0, 0, 0, 0, SPAN)) for tensor in past]
        kept = cross if mask is None else [*cross, mask]
        return grown + [tensor.index_select(0, sentences) for tensor in kept]


@dataclass(frozen=True)
class _Parts:
    """What differs between the kinds of language models: modules, and the sizes of the caches."""

    to_cache: nn.Module
    step: nn.Module
    layers: int
    heads: int
    width: int


def _encoder_decoder(pipe: TextDiffusionPipeline) -> _Parts:
    autoencoder = pipe.autoencoder
    lm = autoencoder.lm
    decoder = read_decoder(lm, lm.dtype, PlainLinear)
    width = lm.config.d_model // decoder.heads if lm.config.model_type == "bart" else lm.config.d_kv
    longest = autoencoder.max_len + 1 + pipe.model.recipe.get("prefix_tokens", 0) + SPAN
    step = DecoderStep(decoder, longest)
    return _Parts(LatentsToCache(pipe, decoder), step, len(decoder.layers), decoder.heads, width)


def _decoder_only(pipe: TextDiffusionPipeline) -> _Parts:
    check_causal(pipe.autoencoder)
    lm: Any = pipe.autoencoder.lm
    lm.set_attn_implementation(NAME)
    config = lm.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = config.num_key_value_heads
    return _Parts(PrefixToCache(pipe.autoencoder), CausalStep(lm), config.num_hidden_layers, heads, width)


def decoder_graphs(pipe: TextDiffusionPipeline) -> list[Graph]:
    """Latents to the caches that the beams share, a decoding step, and the growth of the caches."""
    autoencoder = pipe.autoencoder
    lm, has_mask = autoencoder.lm, autoencoder.perceiver is None
    parts = (_encoder_decoder if lm.config.is_encoder_decoder else _decoder_only)(pipe)
    latents = torch.zeros(2, autoencoder.num_latents - has_mask, autoencoder.dim_latent)
    latent_axes = {0: "sentences"} | ({1: "positions"} if has_mask else {})
    cross_names = cache_names("cross", parts.layers)
    to_cache = Graph("latents", parts.to_cache, {"latents": latents}, {"latents": latent_axes}, cross_names)
    sentences, beams, positions, span = 3, 4, 7, 5

    def cache(*middle: int) -> list[Tensor]:
        shape = (sentences, parts.heads, *middle, parts.width)
        return [torch.zeros(shape, dtype=lm.dtype) for _ in range(2 * parts.layers)]

    caches: dict[str, Tensor | list[Tensor]] = {"past": cache(span, beams), "cross": cache(positions)}
    cache_axes = {
        "past": {0: "sentences", 2: "span", 3: "beams"},
        "cross": {0: "sentences", 2: "positions"},
    }
    inputs: dict[str, Tensor | list[Tensor]] = {
        "tokens": torch.zeros(sentences, beams, dtype=torch.long),
        "position": torch.zeros(1, dtype=torch.long),
        "bias": torch.zeros(sentences, beams, span * beams),
    }
    axes = {"tokens": {0: "sentences", 1: "beams"}, "bias": {0: "sentences", 1: "beams", 2: "slots"}}
    if has_mask:
        caches["mask"] = torch.ones(sentences, positions, dtype=torch.bool)
        cache_axes["mask"] = {0: "sentences", 1: "positions"}
    step = Graph(
        "decoder",
        parts.step,
        inputs | caches,
        axes | cache_axes,
        ["logits", *cache_names("present", parts.layers)],
    )
    growth = Graph(
        "cache",
        CacheGrowth(),
        {"sentences": torch.zeros(2, dtype=torch.long), **caches},
        {"sentences": {0: "kept"}} | cache_axes,
        [f"next.{name}" for name in (*cache_names("past", parts.layers), *cross_names)]
        + ["next.mask"] * has_mask,
    )
    return [to_cache, step, growth]
