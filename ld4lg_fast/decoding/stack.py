"""One decoding step of a batch, with key-value caches that are written in place and never reordered.

Letters: S sentences, W beams, T positions, N latents, H heads, K head width, D model width, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.decoding.cache import KeyValueCache, bias_of_mask, empty_past
from ld4lg_fast.decoding.families import Decoder, Layer, Map
from ld4lg_fast.kernels import backend, ops


@dataclass
class Cache(KeyValueCache):
    """Keys and values of a batch, and ``position_bias`` (T, H, T) of the decoder, or None."""

    position_bias: Tensor | None

    def relative_bias(self, position: Tensor, span: int) -> Tensor | None:
        """Relative position bias (1, H, span) of a query at ``position`` (1,), or None."""
        if self.position_bias is None:
            return None
        return self.position_bias.index_select(0, position)[:, :, :span]

    def spread_bias(self, position: Tensor, span: int) -> Tensor | None:
        """`relative_bias` for every slot, -inf for slots of other beams: (S or 1, H or 1, W or 1, span·W)."""
        bias, past = self.relative_bias(position, span), self.past_bias(span)
        bias = None if bias is None else bias[:, :, None, :, None]
        if past is not None:
            bias = past if bias is None else bias + past
        return None if bias is None else bias.flatten(-2)


class DecoderStack:
    """Runs a decoder a token at a time."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        self.decoder, self.dtype = decoder, dtype

    def _is_native(self, device: torch.device) -> bool:
        """Whether attention is `ops.cached_attention`."""
        return (
            self.dtype == torch.float32
            and backend.choose("cached_attention", device.type, (self.dtype,)) == "native"
        )

    def start(self, states: Tensor, mask: Tensor | None, num_beams: int, max_length: int) -> Cache:
        """Empty caches for texts of ``max_length`` tokens from encoder states (S, N, D), mask (S, N) or None."""
        decoder, (sentences, latents, width) = self.decoder, states.shape
        cross = []
        for layer in decoder.layers:
            both = layer.cross_kv(states.reshape(-1, width).to(self.dtype))
            both = both.view(sentences, latents, 2, decoder.heads, -1).permute(2, 0, 3, 1, 4).contiguous()
            cross.append(both.unsqueeze(4).unbind(0))
        key = cross[0][0]

        def empty() -> list[Tensor]:
            shape = (sentences, decoder.heads, max_length, num_beams, key.shape[-1])
            # Zeros, as positions that are not written yet are masked, and a masked NaN would still give NaN.
            return [key.new_zeros(shape) for _ in decoder.layers]

        return Cache(
            keys=empty(),
            values=empty(),
            cross_keys=[keys for keys, _ in cross],
            cross_values=[values for _, values in cross],
            cross_bias=bias_of_mask(mask, key),
            chosen=empty_past(key, num_beams, max_length),
            position_bias=decoder.position_bias(max_length).to(key) if decoder.position_bias else None,
        )

    def prefill(self, tokens: Tensor, cache: Cache) -> None:
        """Takes the first tokens (S, P) of every text into the caches at once; the beams of a sentence share them."""
        decoder, (sentences, count) = self.decoder, tokens.shape
        places = torch.arange(count, device=tokens.device)
        x = decoder.embed(tokens.flatten(), places.repeat(sentences))
        if cache.chosen is not None:
            cache.chosen[:, :, :count] = 0
        bias = x.new_zeros(count, count).masked_fill_(places > places[:, None], float("-inf"))[None, None]
        if cache.position_bias is not None:
            bias = bias + cache.position_bias[:count, :, :count].transpose(0, 1)
        shape = (sentences, count)
        for index, layer in enumerate(decoder.layers):
            x = self._branch(x, layer.self_norm, self._self_prefill, layer, index, bias, shape, cache)
            x = self._branch(x, layer.cross_norm, self._cross_prefill, layer, index, shape, cache)
            x = self._branch(x, layer.ff_norm, self._feed_forward, layer)

    def _self_prefill(
        self,
        x: Tensor,
        residual: Tensor,
        layer: Layer,
        index: int,
        bias: Tensor,
        shape: tuple[int, int],
        cache: Cache,
    ) -> Tensor:
        parts = layer.qkv(x).view(*shape, 3, self.decoder.heads, -1)
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(2))
        cache.keys[index][:, :, : shape[1], 0] = key
        cache.values[index][:, :, : shape[1], 0] = value
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.decoder.scale)
        return layer.self_out(seen.transpose(1, 2).reshape(len(x), -1), residual)

    def _cross_prefill(
        self, x: Tensor, residual: Tensor, layer: Layer, index: int, shape: tuple[int, int], cache: Cache
    ) -> Tensor:
        query = layer.cross_q(x).view(*shape, self.decoder.heads, -1).transpose(1, 2)
        key, value = cache.cross_keys[index].squeeze(3), cache.cross_values[index].squeeze(3)
        bias = None if cache.cross_bias is None else cache.cross_bias[:, None]
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self.decoder.scale)
        return layer.cross_out(seen.transpose(1, 2).reshape(len(x), -1), residual)

    def step(self, tokens: Tensor, position: Tensor, span: int, cache: Cache) -> Tensor:
        """Logits (S·W, V) of the token after ``tokens`` (S·W,) at ``position`` (1,) < ``span``."""
        decoder = self.decoder
        x = decoder.embed(tokens, position)
        cache.enter(position)
        native = self._is_native(x.device)
        bias = cache.relative_bias(position, span) if native else cache.spread_bias(position, span)
        for index, layer in enumerate(decoder.layers):
            x = self._branch(
                x, layer.self_norm, self._self_attention, layer, index, position, span, bias, cache, native
            )
            x = self._branch(x, layer.cross_norm, self._cross_attention, layer, index, cache, native)
            x = self._branch(x, layer.ff_norm, self._feed_forward, layer)
        return decoder.head(decoder.final(x))

    def _branch(self, x: Tensor, norm: Map, branch: Callable[..., Tensor], *arguments: Any) -> Tensor:
        if self.decoder.pre_norm:
            return branch(norm(x), x, *arguments)
        return norm(branch(x, x, *arguments))

    def _self_attention(
        self,
        x: Tensor,
        residual: Tensor,
        layer: Layer,
        index: int,
        position: Tensor,
        span: int,
        bias: Tensor | None,
        cache: Cache,
        native: bool,
    ) -> Tensor:
        keys, values = cache.keys[index], cache.values[index]
        sentences, heads, _, beams, width = keys.shape
        qkv = layer.qkv(x)
        _, key, value = qkv.view(sentences, beams, 3, heads, width).unbind(2)
        cache.write(index, position, key, value)
        query = qkv[:, : heads * width]
        if native:
            seen = ops.cached_attention(query, keys, values, span, self.decoder.scale, cache.chosen, bias)
        else:
            seen = self._attend(query, keys[:, :, :span], values[:, :, :span], bias)
        return layer.self_out(seen, residual)

    def _cross_attention(
        self, x: Tensor, residual: Tensor, layer: Layer, index: int, cache: Cache, native: bool
    ) -> Tensor:
        keys, values, bias = cache.cross_keys[index], cache.cross_values[index], cache.cross_bias
        query = layer.cross_q(x)
        if native:
            seen = ops.cached_attention(query, keys, values, keys.shape[2], self.decoder.scale, bias=bias)
        else:
            seen = self._attend(query, keys, values, None if bias is None else bias[:, :, None])
        return layer.cross_out(seen, residual)

    def _feed_forward(self, x: Tensor, residual: Tensor, layer: Layer) -> Tensor:
        hidden = layer.ff_in(x)
        return layer.ff_out(hidden if layer.activation is None else layer.activation(hidden), residual)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Queries (S·W, H·K) over keys and values (S, H, T, C, K), bias broadcast to (S, H, W, T·C) -> (S·W, H·K)."""
        sentences, heads, _, _, width = keys.shape
        out = F.scaled_dot_product_attention(
            query.view(sentences, -1, heads, width).transpose(1, 2),
            keys.flatten(2, 3),
            values.flatten(2, 3),
            attn_mask=bias,
            scale=self.decoder.scale,
        )
        return out.transpose(1, 2).reshape(len(query), heads * width)
