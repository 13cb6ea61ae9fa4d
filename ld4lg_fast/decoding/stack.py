"""One decoding step of a whole batch, with caches that are written in place and never reordered.

The beams of a sentence share its cross-attention keys and values, and they are query positions of one attention
over the self-attention cache of all of them: a mask says which of the cached positions belong to a beam's own past,
so that choosing beams changes the mask and moves no key.

Letters: S sentences, W beams, T positions, N latents, H heads, K head width, D model width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.decoding.families import Decoder, Layer


@dataclass
class Cache:
    """What a batch remembers between steps.

    Attributes:
        keys, values: of each layer (S, H, T, W, K). cross_keys, cross_values: of each layer (S, H, N, K).
        cross_bias: (S, 1, 1, N), added to the cross-attention's scores, or None.
        past: (S, W, T, W), 0 where the position in that slot belongs to the beam's past and -inf elsewhere; or None
            for a single beam whose past is all that is cached.
        position_bias: (T, H, T) of the decoder, or None.
    """

    keys: list[Tensor]
    values: list[Tensor]
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    cross_bias: Tensor | None
    past: Tensor | None
    position_bias: Tensor | None

    def choose_beams(self, parents: Tensor) -> None:
        """Beam w of each sentence goes on from beam ``parents[:, w]`` (S, W)."""
        self.past.copy_(self.past.gather(1, parents[:, :, None, None].expand_as(self.past)))

    def keep(self, sentences: Tensor) -> None:
        """Drops all sentences but those."""
        for tensors in (self.keys, self.values, self.cross_keys, self.cross_values):
            tensors[:] = [tensor.index_select(0, sentences) for tensor in tensors]
        if self.cross_bias is not None:
            self.cross_bias = self.cross_bias.index_select(0, sentences)
        if self.past is not None:
            self.past = self.past.index_select(0, sentences)

    def write(self, layer: int, position: Tensor, key: Tensor, value: Tensor) -> None:
        """Stores a layer's key and value (S, W, H, K) of a position (1,)."""
        self.keys[layer].index_copy_(2, position, key.transpose(1, 2).unsqueeze(2))
        self.values[layer].index_copy_(2, position, value.transpose(1, 2).unsqueeze(2))

    def enter(self, position: Tensor) -> None:
        """From now on, the past of each beam includes its own slot of ``position`` (1,)."""
        if self.past is not None:
            own = torch.eye(self.past.shape[1], device=self.past.device, dtype=self.past.dtype).log()
            self.past.index_copy_(2, position, own[None, :, None].expand_as(self.past[:, :, :1]))

    def bias(self, position: Tensor, span: int) -> Tensor | None:
        """What is added to the scores of the first ``span`` positions, (S or 1, H or 1, W or 1, span·W)."""
        bias = None
        if self.past is not None:
            bias = self.past[:, None, :, :span]
        if self.position_bias is not None:
            relative = self.position_bias.index_select(0, position)[:, :, None, :span, None]
            bias = relative if bias is None else bias + relative
        return None if bias is None else bias.flatten(-2)


class DecoderStack:
    """Runs a decoder a token at a time."""

    def __init__(self, decoder: Decoder, dtype: torch.dtype) -> None:
        self.decoder, self.dtype = decoder, dtype

    def start(self, states: Tensor, mask: Tensor | None, num_beams: int, max_length: int) -> Cache:
        """Empty caches for texts of ``max_length`` tokens from encoder states (S, N, D), mask (S, N) or None."""
        decoder, (sentences, latents, width) = self.decoder, states.shape
        cross = []
        for layer in decoder.layers:
            both = layer.cross_kv(states.reshape(-1, width).to(self.dtype))
            both = both.view(sentences, latents, 2, decoder.heads, -1).permute(2, 0, 3, 1, 4).contiguous()
            cross.append(both.unbind(0))
        key = cross[0][0]

        def empty() -> list[Tensor]:
            shape = (sentences, decoder.heads, max_length, num_beams, key.shape[-1])
            # Positions that are not written yet are masked, and masking does not survive NaN.
            return [key.new_zeros(shape) for _ in decoder.layers]

        past = None
        if num_beams > 1 or key.is_cuda:
            past = key.new_full((sentences, num_beams, max_length, num_beams), float("-inf"))
        cross_bias = None
        if mask is not None:
            cross_bias = key.new_zeros(mask.shape).masked_fill(~mask.bool(), torch.finfo(key.dtype).min)
            cross_bias = cross_bias[:, None, None]
        return Cache(
            keys=empty(),
            values=empty(),
            cross_keys=[keys for keys, _ in cross],
            cross_values=[values for _, values in cross],
            cross_bias=cross_bias,
            past=past,
            position_bias=decoder.position_bias(max_length).to(key) if decoder.position_bias else None,
        )

    def step(self, tokens: Tensor, position: Tensor, span: int, cache: Cache) -> Tensor:
        """Logits (S·W, V) of what follows ``tokens`` (S·W,), which stand at ``position`` (1,) < ``span``."""
        decoder = self.decoder
        x = decoder.embed(tokens, position)
        cache.enter(position)
        bias = cache.bias(position, span)
        for index, layer in enumerate(decoder.layers):
            x = self._branch(
                x, layer.self_norm, self._self_attention, layer, index, position, span, bias, cache
            )
            x = self._branch(x, layer.cross_norm, self._cross_attention, layer, index, cache)
            x = self._branch(x, layer.ff_norm, self._feed_forward, layer)
        return decoder.head(decoder.final(x))

    def _branch(self, x: Tensor, norm, branch, *arguments) -> Tensor:
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
        bias,
        cache: Cache,
    ) -> Tensor:
        sentences, heads, _, beams, width = cache.keys[index].shape
        query, key, value = layer.qkv(x).view(sentences, beams, 3, heads, width).unbind(2)
        cache.write(index, position, key, value)
        seen = (cache.keys[index][:, :, :span].flatten(2, 3), cache.values[index][:, :, :span].flatten(2, 3))
        return layer.self_out(self._attend(query, *seen, bias), residual)

    def _cross_attention(self, x: Tensor, residual: Tensor, layer: Layer, index: int, cache: Cache) -> Tensor:
        keys, values = cache.cross_keys[index], cache.cross_values[index]
        query = layer.cross_q(x).view(len(keys), -1, keys.shape[1], keys.shape[3])
        return layer.cross_out(self._attend(query, keys, values, cache.cross_bias), residual)

    def _feed_forward(self, x: Tensor, residual: Tensor, layer: Layer) -> Tensor:
        hidden = layer.ff_in(x)
        return layer.ff_out(hidden if layer.activation is None else layer.activation(hidden), residual)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        """Queries (S, W, H, K) over keys and values (S, H, P, K) -> (S·W, H·K)."""
        out = F.scaled_dot_product_attention(
            query.transpose(1, 2), keys, values, attn_mask=bias, scale=self.decoder.scale
        )
        return out.transpose(1, 2).reshape(query.shape[0] * query.shape[1], -1)
