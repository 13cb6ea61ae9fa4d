"""`Decoder`: one description of the decoders of BART and T5 models, read from the modules of transformers.

BART (Lewis et al. 2020): norms after each branch, learned positions, biases. T5 (Raffel et al. 2020) and its
multilingual and 1.1 variants: norms before each branch, a relative position bias shared by the layers, no biases.

Letters: R rows, D model width, H heads, T positions, V vocabulary.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ld4lg_fast.decoding.rules import UnsupportedError
from ld4lg_fast.engine.precision import Linear, Pack

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """The matmuls and norms of a decoder layer: ``qkv`` (3·H·K, D), ``cross_kv`` (2·H·K, D).

    ``activation`` is None if it is part of ``ff_in``. Modules are called by their ``forward``, which skips the hook
    checks of ``__call__``: a step has dozens of calls.
    """

    self_norm: Map
    qkv: Linear
    self_out: Linear
    cross_norm: Map
    cross_q: Linear
    cross_kv: Linear
    cross_out: Linear
    ff_norm: Map
    ff_in: Linear
    activation: Map | None
    ff_out: Linear


@dataclass(frozen=True)
class Decoder:
    """A decoder.

    Attributes:
        embed: (tokens (R,), position (1,)) -> (R, D). head: (R, D) -> logits (R, V).
        pre_norm: whether the norms stand before the branches. scale: of the attention scores.
        position_bias: (max_length) -> (T, H, T) by query position, head and key position; or None.
    """

    layers: list[Layer]
    embed: Callable[[Tensor, Tensor], Tensor]
    final: Map
    head: Linear
    heads: int
    scale: float
    pre_norm: bool
    position_bias: Callable[[int], Tensor] | None


def read_decoder(lm: PreTrainedModel, dtype: torch.dtype, pack: Pack) -> Decoder:
    """The decoder of ``lm`` in ``dtype``, with weights packed by ``pack``.

    Raises:
        UnsupportedError: another family.
    """
    readers = {"bart": _read_bart, "t5": _read_t5, "mt5": _read_t5}
    if lm.config.model_type not in readers or not hasattr(lm, "lm_head"):
        raise UnsupportedError(f"models of the type {lm.config.model_type!r}")
    return readers[lm.config.model_type](lm, dtype, pack)


def _in_dtype(module: Any, dtype: torch.dtype) -> Any:
    """The module itself, or a copy of it in another dtype."""
    return module if next(module.parameters()).dtype == dtype else copy.deepcopy(module).to(dtype)


def _fused(pack: Pack, *linears: nn.Linear, gelu: bool = False) -> Linear:
    """Linears of the same input as one, with concatenated outputs; a single one is not copied."""
    if len(linears) == 1:
        return pack(linears[0].weight, linears[0].bias, gelu)
    bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    return pack(torch.cat([linear.weight for linear in linears]), bias, gelu)


def _read_bart(lm: PreTrainedModel, dtype: torch.dtype, pack: Pack) -> Decoder:
    decoder = _in_dtype(lm.model.decoder, dtype)
    positions = decoder.embed_positions

    def embed(tokens: Tensor, position: Tensor) -> Tensor:
        place = positions.weight.index_select(0, position + positions.offset)
        return decoder.layernorm_embedding.forward(decoder.embed_tokens.forward(tokens) + place)

    gelu = lm.config.activation_function == "gelu"
    layers = [
        Layer(
            self_norm=layer.self_attn_layer_norm.forward,
            qkv=_fused(pack, layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
            self_out=_fused(pack, layer.self_attn.out_proj),
            cross_norm=layer.encoder_attn_layer_norm.forward,
            cross_q=_fused(pack, layer.encoder_attn.q_proj),
            cross_kv=_fused(pack, layer.encoder_attn.k_proj, layer.encoder_attn.v_proj),
            cross_out=_fused(pack, layer.encoder_attn.out_proj),
            ff_norm=layer.final_layer_norm.forward,
            ff_in=_fused(pack, layer.fc1, gelu=gelu),
            activation=None if gelu else layer.activation_fn,
            ff_out=_fused(pack, layer.fc2),
        )
        for layer in decoder.layers
    ]
    heads = lm.config.decoder_attention_heads
    return Decoder(
        layers=layers,
        embed=embed,
        final=nn.Identity(),
        head=pack(lm.lm_head.weight.to(dtype), lm.final_logits_bias[0].to(dtype)),  # type: ignore[index]  # a buffer
        heads=heads,
        scale=(lm.config.d_model // heads) ** -0.5,
        pre_norm=False,
        position_bias=None,
    )


def _read_t5(lm: PreTrainedModel, dtype: torch.dtype, pack: Pack) -> Decoder:
    decoder, config = _in_dtype(lm.decoder, dtype), lm.config
    activate = ACT2FN[config.dense_act_fn]

    def gated(x: Tensor) -> Tensor:
        gate, value = x.chunk(2, dim=-1)
        return activate(gate) * value

    def read_layer(block: Any) -> Layer:
        attention, cross, ff = block.layer
        own, other, dense = attention.SelfAttention, cross.EncDecAttention, ff.DenseReluDense
        return Layer(
            self_norm=attention.layer_norm.forward,
            qkv=_fused(pack, own.q, own.k, own.v),
            self_out=_fused(pack, own.o),
            cross_norm=cross.layer_norm.forward,
            cross_q=_fused(pack, other.q),
            cross_kv=_fused(pack, other.k, other.v),
            cross_out=_fused(pack, other.o),
            ff_norm=ff.layer_norm.forward,
            ff_in=_fused(pack, dense.wi_0, dense.wi_1) if config.is_gated_act else _fused(pack, dense.wi),
            activation=gated if config.is_gated_act else activate,
            ff_out=_fused(pack, dense.wo),
        )

    first = decoder.block[0].layer[0].SelfAttention
    # The first T5 scales its tied head; 1.1 and mT5 do not.
    scale = config.d_model**-0.5 if getattr(config, "scale_decoder_outputs", False) else 1.0
    return Decoder(
        layers=[read_layer(block) for block in decoder.block],
        embed=lambda tokens, position: decoder.embed_tokens(tokens),
        final=lambda x: decoder.final_layer_norm(x) * scale,
        head=pack(lm.lm_head.weight.to(dtype), None),
        heads=config.num_heads,
        scale=1.0,
        pre_norm=True,
        position_bias=lambda length: first.compute_bias(length, length)[0].transpose(0, 1).contiguous(),
    )
