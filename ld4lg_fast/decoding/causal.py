"""`CausalDecoder`: one description of Llama's relatives, read from the modules of transformers.

Llama (Touvron et al. 2023), also SmolLM2, and its relatives: RMSNorm before each branch (Gemma 2: also after it),
rotary positions, grouped queries, gated feed-forwards. Mistral and Qwen attend to a window of positions in some or all
layers, Qwen2 has biases, Qwen3 norms of queries and keys, Gemma scaled embeddings and norms with 1 + weight. T5Gemma's
decoder (Zhang et al. 2025) is Gemma 2 with cross-attention. T5Gemma 2's attends to the encoder and the text at once,
with one softmax, and rotates differently in layers with a window.

Letters: R rows, D model width, H heads, G heads of keys and values, K head width, T positions, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ld4lg_fast.decoding.families import Map
from ld4lg_fast.decoding.rules import UnsupportedError
from ld4lg_fast.engine.merged_linear import Merge
from ld4lg_fast.engine.precision import Linear
from ld4lg_fast.kernels import ops

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "t5gemma", "t5gemma2")
# Names of the norms before and after self-attention and feed-forward; others have none after.
T5GEMMA = ("pre_self_attn", "post_self_attn", "pre_feedforward", "post_feedforward")
NORMS = {
    "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    "t5gemma": T5GEMMA,
    "t5gemma2": T5GEMMA,
}
WITH_HEAD_NORMS = ("qwen3", "t5gemma2")
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
    ``memory``: (2·G·K, D), keys and values of encoder states that stand before those of the text; or None.
    ``window``: number of positions of the text that are seen; None: all. ``rotation``: the key of its rotary positions.
    """

    self_norm: Map
    qkv: Linear
    query_norm: Map | None
    key_norm: Map | None
    self_out: Linear
    self_after: Map | None
    cross: CrossAttention | None
    memory: Linear | None
    ff_norm: Map
    gate_up: Linear
    down: Linear
    ff_after: Map | None
    window: int | None
    rotation: str | None


@dataclass(frozen=True)
class CausalDecoder:
    """A decoder-only model, or a decoder that attends to an encoder in every layer.

    Attributes:
        embed: tokens (R,) -> (R, D). head: (R, D) -> logits (R, V).
        scale: of the attention scores. softcap: their limit, see `ops.cached_attention`, or None.
        rotary: positions (T,) -> (2, T, K/2), their cosines and sines, by the layers' ``rotation``.
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
    rotary: Callable[[Tensor], dict[str | None, Tensor]]

    @property
    def groups(self) -> int:
        """Heads that share keys and values."""
        return self.heads // self.kv_heads

    @property
    def has_memory(self) -> bool:
        """Whether the layers attend to encoder states and to the text at once."""
        return self.layers[0].memory is not None


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
    # T5Gemma 2 has parameters for each kind of layer.
    kinds = tuple(sorted(set(config.layer_types))) if kind == "t5gemma2" else (None,)
    for name in kinds:
        rope = config.rope_parameters if name is None else config.rope_parameters[name]
        if rope["rope_type"] in CHANGING_ROTATIONS:
            raise UnsupportedError(f"rotary embeddings of the type {rope['rope_type']!r}")
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
            query_norm=norm(attention.q_norm) if kind in WITH_HEAD_NORMS else None,
            key_norm=norm(attention.k_norm) if kind in WITH_HEAD_NORMS else None,
            self_out=merged(attention.o_proj),
            self_after=norms[1],
            cross=read_cross(layer) if kind == "t5gemma" else None,
            memory=merged(attention.k_proj, attention.v_proj) if kind == "t5gemma2" else None,
            ff_norm=norms[2],
            gate_up=merged(ff.gate_proj, ff.up_proj, glu=glu),
            down=merged(ff.down_proj),
            ff_after=norms[3],
            window=window,
            rotation=attention.layer_type if kind == "t5gemma2" else None,
        )

    def rotary(places: Tensor) -> dict[str | None, Tensor]:
        def of_kind(*kinds: str) -> Tensor:
            both = torch.cat(model.rotary_emb(places[None].float(), places[None], *kinds))
            return both[..., : both.shape[-1] // 2].to(dtype)  # the halves of a head are rotated alike

        return {name: of_kind() if name is None else of_kind(name) for name in kinds}

    def embed(tokens: Tensor) -> Tensor:
        if kind != "t5gemma2":
            return (model.embed_tokens(tokens) * scale).to(dtype)
        # Its module finds the token at the end of an image by a mask, for which a GPU would be waited for.
        known: Any = model.embed_tokens
        rows = F.embedding(tokens, known.weight) * known.embed_scale.to(known.weight.dtype)
        return torch.where((tokens == known.eoi_token_index)[..., None], known.eoi_embedding, rows).to(dtype)

    # The other Gemmas scale in their embedding; all round the scale to the model's dtype.
    scale = torch.tensor(config.hidden_size**0.5, dtype=lm.dtype).item() if kind == "t5gemma" else 1.0
    first, cap = model.layers[0].self_attn, getattr(config, "final_logit_softcapping", None)
    head = merged(lm.get_output_embeddings())
    return CausalDecoder(
        layers=[read_layer(layer) for layer in model.layers],
        embed=embed,
        final=norm(model.norm),
        head=head if cap is None else lambda x: cap * torch.tanh(head(x) / cap),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_width=first.head_dim,
        scale=first.scaling,
        softcap=getattr(config, "attn_logit_softcapping", None),
        rotary=rotary,
    )
