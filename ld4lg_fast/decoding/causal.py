"""`CausalDecoder`: one description of Llama's relatives, read from the modules of transformers.

Llama (Touvron et al. 2023), also SmolLM2, and its relatives: RMSNorm before each branch (Gemma 2: also after it),
rotary positions, grouped queries, gated feed-forwards. Mistral and Qwen attend to a window of positions in some or all
layers, Qwen2 has biases, Qwen3 norms of queries and keys, Gemma scaled embeddings and norms with 1 + weight. T5Gemma's
decoder (Zhang et al. 2025) is Gemma 2 with cross-attention.

Letters: R rows, D model width, H heads, G heads of keys and values, K head width, T positions, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ld4lg_fast.decoding.families import Map
from ld4lg_fast.decoding.rules import UnsupportedError
from ld4lg_fast.engine.merged_linear import Merge
from ld4lg_fast.engine.precision import Linear
from ld4lg_fast.kernels import ops

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "t5gemma")
# Names of the norms before and after self-attention and feed-forward; others have none after.
NORMS = {
    "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    "t5gemma": ("pre_self_attn", "post_self_attn", "pre_feedforward", "post_feedforward"),
}
GLUS = ("silu", "gelu_pytorch_tanh")
# Frequencies that depend on the length of the text, so that keys in a cache would have to be rotated again.
CHANGING_ROTATIONS = ("dynamic", "longrope")


@dataclass(frozen=True)
class CrossAttention:
    """Matmuls and norms around a layer's cross-attention: ``key_value`` (2·G·K, D of the encoder)."""

    norm: Map
    query: Linear
    key_value: Linear
    out: Linear
    after: Map


@dataclass(frozen=True)
class CausalLayer:
    """The matmuls and norms of a layer: ``qkv`` (H·K + 2·G·K, D), ``gate_up`` with its activation (F, D).

    ``query_norm`` and ``key_norm`` are of each head, ``self_after`` and ``ff_after`` of what a branch adds; or None.
    ``window``: number of positions that are seen; None: all.
    """

    self_norm: Map
    qkv: Linear
    query_norm: Map | None
    key_norm: Map | None
    self_out: Linear
    self_after: Map | None
    cross: CrossAttention | None
    ff_norm: Map
    gate_up: Linear
    down: Linear
    ff_after: Map | None
    window: int | None


@dataclass(frozen=True)
class CausalDecoder:
    """A decoder-only model, or a decoder with cross-attention in every layer.

    Attributes:
        embed: tokens (R,) -> (R, D). head: (R, D) -> logits (R, V).
        scale: of the attention scores. softcap: their limit, see `ops.cached_attention`, or None.
        rotary: (T) -> (2, T, K/2), cosines and sines of the positions.
    """

    layers: list[CausalLayer]
    embed: Map
    final: Map
    head: Map
    heads: int
    kv_heads: int
    head_width: int
    scale: float
    softcap: float | None
    rotary: Callable[[int], Tensor]

    @property
    def groups(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.kv_heads


def read_causal_decoder(lm: PreTrainedModel, dtype: torch.dtype, merge: Merge) -> CausalDecoder:
    """The decoder of ``lm`` in ``dtype``, with matmuls by ``merge``.

    Raises:
        UnsupportedError: another family, or an option of its config that only transformers' modules have.
    """
    kind = lm.config.model_type
    if kind not in FAMILIES or not hasattr(lm, "lm_head"):
        raise UnsupportedError(f"models of the type {kind!r}")
    model: Any = lm.get_decoder()
    config = model.config
    glu = getattr(config, "hidden_act", None) or config.hidden_activation
    if glu not in GLUS:
        raise UnsupportedError(f"feed-forwards with the activation {glu!r}")
    if (rope := config.rope_parameters["rope_type"]) in CHANGING_ROTATIONS:
        raise UnsupportedError(f"rotary embeddings of the type {rope!r}")
    if getattr(config, "use_bidirectional_attention", None):
        raise UnsupportedError("bidirectional attention")
    names = NORMS.get(kind, ("input", None, "post_attention", None))

    def merged(*linears: nn.Module, glu: str | None = None) -> Linear:
        for linear in linears:
            if type(linear) is not nn.Linear:  # an adapter's, or a quantized one
                raise UnsupportedError(f"layers of the class {type(linear).__name__}")
        return merge(linears, glu)

    def norm(module: Any) -> Map:
        weight = module.weight.detach()
        # 1 + weight in float32, as bfloat16 would round it too coarsely.
        weight = 1.0 + weight.float() if "gemma" in kind else weight.to(dtype)
        return partial(ops.rms_norm, weight=weight, eps=config.rms_norm_eps)

    def read_cross(layer: Any) -> CrossAttention:
        attention = layer.cross_attn
        return CrossAttention(
            norm=norm(layer.pre_cross_attn_layernorm),
            query=merged(attention.q_proj),
            key_value=merged(attention.k_proj, attention.v_proj),
            out=merged(attention.o_proj),
            after=norm(layer.post_cross_attn_layernorm),
        )

    def read_layer(layer: Any) -> CausalLayer:
        attention, ff = layer.self_attn, layer.mlp
        norms: list[Any] = [
            None if name is None else norm(getattr(layer, f"{name}_layernorm")) for name in names
        ]
        window = config.sliding_window if kind == "mistral" else getattr(attention, "sliding_window", None)
        return CausalLayer(
            self_norm=norms[0],
            qkv=merged(attention.q_proj, attention.k_proj, attention.v_proj),
            query_norm=norm(attention.q_norm) if kind == "qwen3" else None,
            key_norm=norm(attention.k_norm) if kind == "qwen3" else None,
            self_out=merged(attention.o_proj),
            self_after=norms[1],
            cross=read_cross(layer) if kind == "t5gemma" else None,
            ff_norm=norms[2],
            gate_up=merged(ff.gate_proj, ff.up_proj, glu=glu),
            down=merged(ff.down_proj),
            ff_after=norms[3],
            window=window,
        )

    def rotary(length: int) -> Tensor:
        places = torch.arange(length, device=lm.device)[None]
        both = torch.cat(model.rotary_emb(places.float(), places))  # the halves of a head are rotated alike
        return both[..., : both.shape[-1] // 2].to(dtype)

    # The other Gemmas scale in their embedding; all round the scale to the model's dtype.
    scale = torch.tensor(config.hidden_size**0.5, dtype=lm.dtype).item() if kind == "t5gemma" else 1.0
    first, cap = model.layers[0].self_attn, getattr(config, "final_logit_softcapping", None)
    head = merged(lm.get_output_embeddings())
    return CausalDecoder(
        layers=[read_layer(layer) for layer in model.layers],
        embed=lambda tokens: (model.embed_tokens(tokens) * scale).to(dtype),
        final=norm(model.norm),
        head=head if cap is None else lambda x: cap * torch.tanh(head(x) / cap),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=first.head_dim,
        scale=first.scaling,
        softcap=getattr(config, "attn_logit_softcapping", None),
        rotary=rotary,
    )
