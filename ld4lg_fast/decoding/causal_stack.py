"""Decoding of Llama's relatives: what stands before the text is read at once, then a token at a time.

The soft prefix of a decoder-only model (Li & Liang 2021; Lester et al. 2021) is N embeddings in front of the text. The
beams of a sentence share its keys and values.

Letters: S sentences, W beams, N positions of the soft prefix or of the encoder, L positions read at once, T positions
of the cache, H heads, G heads of keys and values, K head width, D model width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.decoding.cache import KeyValueCache, bias_of_mask, empty_past
from ld4lg_fast.decoding.causal import CausalDecoder, CausalLayer
from ld4lg_fast.decoding.families import Map
from ld4lg_fast.decoding.rules import UnsupportedError
from ld4lg_fast.engine.precision import Linear
from ld4lg_fast.kernels import backend, ops


@dataclass
class CausalCache(KeyValueCache):
    """Keys and values of a batch.

    Attributes:
        soft_prefix: N, the position of the text's first token; 0 with cross-attention.
        memory: how many of the first N positions are encoder states, which every token sees: all or none.
        rotary: (2, T, K/2) of the decoder, by the layers' ``rotation``.
    """

    soft_prefix: int
    memory: int
    rotary: dict[str | None, Tensor]


class CausalStack:
    """Runs a `CausalDecoder` a token at a time."""

    def __init__(self, decoder: CausalDecoder, dtype: torch.dtype) -> None:
        self.decoder, self.dtype = decoder, dtype

    def _is_native(self, device: torch.device) -> bool:
        """Whether attention is `ops.cached_attention`."""
        return (
            self.dtype == torch.float32
            and backend.choose("cached_attention", device.type, (self.dtype,)) == "native"
        )

    def start(self, states: Tensor, mask: Tensor | None, num_beams: int, max_length: int) -> CausalCache:
        """The cache of texts of ``max_length`` tokens behind the soft prefixes ``states`` (S, N, D).

        Of a decoder with an encoder, ``states`` are its states, and ``mask`` (S, N) says which of them are read; None:
        all.

        Raises:
            UnsupportedError: a mask of soft prefixes.
        """
        decoder, (sentences, count, _) = self.decoder, states.shape
        states = states.to(self.dtype)
        crosses = [layer.cross for layer in decoder.layers if layer.cross is not None]
        if mask is not None and not crosses and not decoder.has_memory:
            raise UnsupportedError("masks of a soft prefix")
        soft_prefix = 0 if crosses else count
        shape = (sentences, decoder.kv_heads, soft_prefix + max_length, num_beams, decoder.head_width)
        cross: list[Tensor] = []
        for layer in crosses:
            both = layer.key_value(states.flatten(0, 1)).view(sentences, count, 2, decoder.kv_heads, 1, -1)
            cross.append(both.permute(2, 0, 3, 1, 4, 5).contiguous())
        memory = soft_prefix if decoder.has_memory else 0
        # The text has positions of its own.
        places = torch.arange(shape[2], device=states.device) - memory
        cache = CausalCache(
            # Zeros, as positions that are not written yet are masked, and a masked NaN would still give NaN.
            keys=[states.new_zeros(shape) for _ in decoder.layers],
            values=[states.new_zeros(shape) for _ in decoder.layers],
            chosen=empty_past(states, num_beams, shape[2]),
            cross_keys=[both[0] for both in cross],
            cross_values=[both[1] for both in cross],
            cross_bias=bias_of_mask(mask, states),
            soft_prefix=soft_prefix,
            memory=memory,
            rotary=decoder.rotary(places),
        )
        if memory:
            self._remember(states, cache)
        elif not crosses:
            self._read(states, 0, cache)
        return cache

    def _remember(self, states: Tensor, cache: CausalCache) -> None:
        """Takes the keys and values of encoder states (S, N, D) into the cache, which are not rotated."""
        sentences, count, _ = states.shape
        if cache.chosen is not None:
            cache.chosen[:, :, :count] = 0
        for index, layer in enumerate(self.decoder.layers):
            assert layer.memory is not None and layer.key_norm is not None  # `CausalDecoder.has_memory`
            key, value = layer.memory(states.flatten(0, 1)).chunk(2, dim=1)
            shape = (sentences, count, self.decoder.kv_heads, -1)
            cache.keys[index][:, :, :count, 0] = layer.key_norm(key).view(shape).transpose(1, 2)
            cache.values[index][:, :, :count, 0] = value.view(shape).transpose(1, 2)

    def prefill(self, tokens: Tensor, cache: CausalCache) -> None:
        """Takes the first tokens (S, P) of every text into the cache at once; the beams of a sentence share them."""
        self._read(self.decoder.embed(tokens), cache.soft_prefix, cache)

    def _read(self, x: Tensor, first: int, cache: CausalCache) -> None:
        """Takes the embeddings (S, L, D) at ``first`` … into the cache."""
        sentences, count, _ = x.shape
        last = first + count
        if cache.chosen is not None:
            cache.chosen[:, :, first:last] = 0
        distance = torch.arange(first, last, device=x.device)[:, None] - torch.arange(last, device=x.device)
        unseen = {}
        for window in {layer.window for layer in self.decoder.layers}:
            unseen[window] = _unseen(distance, window, x.dtype, cache.memory)
            if cache.memory and cache.cross_bias is not None:
                unseen[window] = unseen[window] + F.pad(cache.cross_bias, (0, last - cache.memory))[:, None]
        rotaries = {name: rotary[:, first:last, None] for name, rotary in cache.rotary.items()}
        x = x.flatten(0, 1)
        for index, layer in enumerate(self.decoder.layers):
            rotary = rotaries[layer.rotation]
            query, key, value = (
                part.view(sentences, count, -1, self.decoder.head_width) for part in self._qkv(x, layer)
            )
            cache.keys[index][:, :, first:last, 0] = _rotated(key, rotary).transpose(1, 2)
            cache.values[index][:, :, first:last, 0] = value.transpose(1, 2)
            if index == len(self.decoder.layers) - 1:
                break  # what follows would be logits of these positions
            keys, values = cache.keys[index][:, :, :last, 0], cache.values[index][:, :, :last, 0]
            out = self._attention(_rotated(query, rotary), keys, values, unseen[layer.window])
            x = self._finish(out, x, layer, index, cache)

    def step(self, tokens: Tensor, position: Tensor, span: int, cache: CausalCache) -> Tensor:
        """Logits (S·W, V) of the token after ``tokens`` (S·W,), which are at ``position`` (1,) < ``span`` of the text.

        On a CPU they are at its last position.
        """
        decoder = self.decoder
        position, span = position + cache.soft_prefix, span + cache.soft_prefix
        x = decoder.embed(tokens)
        cache.enter(position)
        rotaries = {name: rotary.index_select(1, position) for name, rotary in cache.rotary.items()}
        native = self._is_native(x.device)
        hidden: dict[int | None, Tensor | None] = {}
        for window in {layer.window for layer in decoder.layers}:
            if cache.memory or not native:
                hidden[window] = _hidden(cache, position, span, window)
            if not native:
                hidden[window] = _of_slots(cache, hidden[window], span)
        for index, layer in enumerate(decoder.layers):
            rotary = rotaries[layer.rotation]
            query, key, value = self._qkv(x, layer)
            if native:
                out = ops.cached_attention(
                    query,
                    cache.keys[index],
                    cache.values[index],
                    span,
                    decoder.scale,
                    cache.chosen,
                    hidden.get(layer.window),
                    key,
                    value,
                    rotary[:, 0],
                    None if cache.memory else layer.window,
                    softcap=decoder.softcap,
                )
            else:
                bias = hidden[layer.window]
                out = self._attend(query, key, value, index, position, span, rotary, bias, cache)
            x = self._finish(out, x, layer, index, cache)
        return decoder.head(decoder.final(x)).float()

    def _qkv(self, x: Tensor, layer: CausalLayer) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (R, H·K), keys and values (R, G·K) of x (R, D), not rotated."""
        keys = self.decoder.kv_heads * self.decoder.head_width
        query, key, value = layer.qkv(layer.self_norm(x)).split(
            [self.decoder.heads * self.decoder.head_width, keys, keys], dim=1
        )
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = layer.query_norm(query), layer.key_norm(key)
        return query, key, value

    def _finish(
        self, attended: Tensor, x: Tensor, layer: CausalLayer, index: int, cache: CausalCache
    ) -> Tensor:
        """The layer's output (R, D) of what the heads of x (R, D) have read, (R, H·K)."""
        x = _added(layer.self_out, layer.self_after, attended, x)
        if layer.cross is not None:
            query = layer.cross.query(layer.cross.norm(x))
            x = _added(layer.cross.out, layer.cross.after, self._cross_attention(query, index, cache), x)
        return _added(layer.down, layer.ff_after, layer.gate_up(layer.ff_norm(x)), x)

    def _cross_attention(self, query: Tensor, index: int, cache: CausalCache) -> Tensor:
        """What queries (R, H·K) read of the encoder, (R, H·K)."""
        keys, values, bias = cache.cross_keys[index], cache.cross_values[index], cache.cross_bias
        scale, softcap = self.decoder.scale, self.decoder.softcap
        if self._is_native(query.device):
            return ops.cached_attention(query, keys, values, keys.shape[2], scale, bias=bias, softcap=softcap)
        query = query.view(len(keys), -1, self.decoder.heads, self.decoder.head_width)
        bias = None if bias is None else bias[:, None]
        return self._attention(query, keys.squeeze(3), values.squeeze(3), bias)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        index: int,
        position: Tensor,
        span: int,
        rotary: Tensor,
        bias: Tensor | None,
        cache: CausalCache,
    ) -> Tensor:
        """`ops.cached_attention` in torch; ``bias`` from `_of_slots`."""
        sentences, _, _, beams, width = cache.keys[index].shape
        query, key, value = (part.view(sentences, beams, -1, width) for part in (query, key, value))
        cache.write(index, position, _rotated(key, rotary), value)
        keys, values = (x[index][:, :, :span].flatten(2, 3) for x in (cache.keys, cache.values))
        return self._attention(_rotated(query, rotary), keys, values, bias)

    def _attention(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Queries (S, L, H, K) over keys and values (S, G, T, K), bias broadcast to (S, H, L, T) -> (S·L, H·K)."""
        query, scale, softcap = query.transpose(1, 2), self.decoder.scale, self.decoder.softcap
        if softcap is None:
            out = F.scaled_dot_product_attention(query, keys, values, bias, scale=scale, enable_gqa=True)
        else:
            keys, values = (x.repeat_interleave(self.decoder.groups, dim=1) for x in (keys, values))
            scores = softcap * torch.tanh(query @ keys.mT * (scale / softcap))
            scores = scores if bias is None else scores + bias
            out = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype) @ values
        return out.transpose(1, 2).flatten(0, 1).flatten(1)


def _unseen(distance: Tensor, window: int | None, dtype: torch.dtype, memory: int) -> Tensor:
    """-inf for keys that are not ``distance`` (…, T) 0 … window - 1 before a query, 0 for the others and for the first
    ``memory`` ones."""
    hidden = distance < 0 if window is None else (distance < 0) | (distance >= window)
    hidden[..., :memory] = False
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _hidden(cache: CausalCache, position: Tensor, span: int, window: int | None) -> Tensor | None:
    """The bias (S or 1, 1, span) of the scores of a step, lowest for positions that no beam of a text sees; or None."""
    keys, bias = cache.keys[0], None
    if window is not None:
        distance = position - torch.arange(span, device=keys.device)
        bias = _unseen(distance, window, keys.dtype, cache.memory)[None, None]
    if cache.memory and cache.cross_bias is not None:
        masked = F.pad(cache.cross_bias, (0, span - cache.memory))
        bias = masked if bias is None else bias + masked
    return bias


def _of_slots(cache: CausalCache, hidden: Tensor | None, span: int) -> Tensor | None:
    """``hidden`` of `_hidden` and what else is not a beam's past, (S or 1, 1, W or 1, span·W); or None."""
    past = cache.past_bias(span)
    if hidden is not None:
        hidden = hidden[:, :, None, :, None]
        past = hidden.expand(-1, -1, -1, -1, cache.keys[0].shape[3]) if past is None else past + hidden
    return None if past is None else past.flatten(-2)


def _added(linear: Linear, norm: Map | None, x: Tensor, residual: Tensor) -> Tensor:
    """residual + norm(linear(x))."""
    return linear(x, residual) if norm is None else norm(linear(x)).add_(residual)


def _rotated(x: Tensor, rotary: Tensor) -> Tensor:
    """Heads (…, K) by cosines and sines (2, …, K/2) (RoPE: Su et al. 2021)."""
    cosines, sines = rotary.unbind(0)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1)
