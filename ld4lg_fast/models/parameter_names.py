"""Parameter names of the two published systems: tables from published names to ours, used in both directions.

Each table is built from a config that is inferred from the tensor shapes.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from ld4lg_fast.errors import CheckpointError, LD4LGError
from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
from ld4lg_fast.models.denoiser_v1 import DenoiserConfigV1, DiffusionTransformerV1
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig

State = Mapping[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)


def _linear(published: str, ours: str, bias: bool = True) -> dict[str, str]:
    table = {f"{published}.weight": f"{ours}.weight"}
    return table | {f"{published}.bias": f"{ours}.bias"} if bias else table


def _attention(published: str, ours: str) -> dict[str, str]:
    parts = ("to_q", "to_k", "to_v", "to_out")
    return {f"{published}.{part}.weight": f"{ours}.{part}.weight" for part in parts}


def _count(state: State, pattern: str) -> int:
    """The number of indices 0, 1, 2, … that ``pattern``'s group matches in the keys.

    Raises:
        CheckpointError: an index is missing.
    """
    found = {m[1] for key in state if (m := re.match(pattern, key))}
    wanted = {str(number) for number in range(len(found))}
    if found != wanted:
        raise CheckpointError(
            f"The published checkpoint has tensors of {some(found - wanted)} as {pattern!r}, but not all before."
        )
    return len(found)


def _shape(state: State, key: str, dimensions: int = 2) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"The published checkpoint has no tensor {key!r}; is it another kind of model?")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(f"{key} has the shape {shape}; is it another kind of model?")
    return shape


def _heads(state: State, to_q: str, dim: int) -> int | None:
    """The number of heads if it is not D/64, else None (`rename` reports a missing tensor)."""
    inner = _shape(state, to_q)[0] if to_q in state else dim
    return None if inner == dim else inner // DIM_HEAD


def denoiser_config(state: State) -> DenoiserConfig:
    """Infers the sizes from an official denoiser's tensors; dropout is not stored and becomes 0.1."""
    max_len, dim = _shape(state, "pos_emb.emb.weight")
    has_context = "seq2seq_proj.weight" in state
    return DenoiserConfig(
        dim=dim,
        depth=_count(state, r"encoder\.layers\.(\d+)\.") // (3 if has_context else 2),
        dim_latent=_shape(state, "output_proj.weight")[0],
        max_len=max_len,
        num_dense_connections=_count(state, r"encoder\.dense_projections\.(\d+)\."),
        self_condition="init_self_cond" in state,
        scale_shift=any("scale_shift" in key for key in state),
        num_classes=_shape(state, "class_embedding.0.weight")[0] - 1
        if "class_embedding.0.weight" in state
        else 0,
        dim_context=_shape(state, "seq2seq_proj.weight")[1] if has_context else 0,
        heads=_heads(state, "encoder.layers.0.1.to_q.weight", dim),
    )


def _outer_names(time_proj: str) -> dict[str, str]:
    """The denoiser's parameters outside its blocks that both systems have."""
    names = _linear("time_mlp.1", "time_mlp.0") | _linear("time_mlp.3", "time_mlp.2")
    names |= _linear(time_proj, "time_proj") | {"pos_emb.emb.weight": "pos_emb.weight"}
    for name in ("input_proj", "norm", "output_proj"):
        names |= _linear(name, name)
    return names


def _layers(prefix: str, block: int, per_block: int) -> list[str]:
    return [f"{prefix}.{block * per_block + k}" for k in range(per_block)]


def _block_names(
    layers: list[str], block: str, norm: str, proj_out: str, modulation: str | None
) -> dict[str, str]:
    """A block, published as two or three ``layers``: self-attention, perhaps cross-attention, feed-forward."""
    first, *cross, last = layers
    names = _linear(f"{first}.{norm}", f"{block}.attn_norm") | _attention(f"{first}.1", f"{block}.attn")
    for layer in cross:
        names |= _linear(f"{layer}.{norm}", f"{block}.cross_norm")
        names |= _attention(f"{layer}.1", f"{block}.cross_attn")
    names |= _linear(f"{last}.{norm}", f"{block}.ff_norm") | _linear(
        f"{last}.1.ff.0.proj", f"{block}.ff.proj_in"
    )
    names |= _linear(f"{last}.1.ff.{proj_out}", f"{block}.ff.proj_out")
    return names | (_linear(f"{last}.{modulation}", f"{block}.modulation") if modulation else {})


def denoiser_names(config: DenoiserConfig) -> dict[str, str]:
    """Official name -> name in `DiffusionTransformer`'s state dict."""
    names = _outer_names("time_pos_embed_mlp.1")
    if config.self_condition:
        names["init_self_cond"] = "init_self_cond"
    if config.num_classes:
        names["class_embedding.0.weight"] = "class_embedding.weight"
        names |= _linear("class_embedding.1", "class_proj")
    if config.dim_context:
        names |= _linear("seq2seq_proj", "context_proj")
        names["null_embedding_seq2seq.weight"] = "null_context"
    for n in range(config.num_dense_connections):
        names |= _linear(f"encoder.dense_projections.{n}", f"dense_projections.{n}")
    modulation = "2.scale_shift.time_mlp.1" if config.scale_shift else None
    for i in range(config.depth):
        layers = _layers("encoder.layers", i, 3 if config.dim_context else 2)
        names |= _block_names(layers, f"blocks.{i}", "0.0", "3", modulation)
        if config.scale_shift:
            names |= _linear(f"{layers[-1]}.0.1", f"blocks.{i}.post_norm")
    return names


def denoiser_config_v1(state: State) -> DenoiserConfigV1:
    """Infers the sizes from an unofficial denoiser's tensors."""
    max_len, dim = _shape(state, "pos_emb.emb.weight")
    cross_attention = "transformer_layers.layers.1.1.to_q.weight" in state
    return DenoiserConfigV1(
        dim=dim,
        depth=_count(state, r"transformer_layers\.layers\.(\d+)\.") // (3 if cross_attention else 2),
        dim_latent=_shape(state, "output_proj.weight")[0],
        max_len=max_len,
        cross_attention=cross_attention,
        self_condition="self_proj.weight" in state,
        num_classes=_shape(state, "class_emb.weight")[0] - 1 if "class_emb.weight" in state else 0,
        heads=_heads(state, "transformer_layers.layers.0.1.to_q.weight", dim),
    )


def denoiser_names_v1(config: DenoiserConfigV1) -> dict[str, str]:
    """Unofficial name -> name in `DiffusionTransformerV1`'s state dict."""
    names = _outer_names("time_pos_emb_mlp.1")
    names["transformer_layers.rel_pos.relative_attention_bias.weight"] = "relative_bias.weight"
    if config.self_condition:
        names |= _linear("self_proj", "self_cond_proj")
        names["null_emb.weight"] = "null_self_cond"
    if config.num_classes:
        names["class_emb.weight"] = "class_embedding.weight"
    for i in range(config.depth):
        layers = _layers("transformer_layers.layers", i, 3 if config.cross_attention else 2)
        names |= _block_names(layers, f"blocks.{i}", "0", "2", "2.time_mlp.1")
    return names


def perceiver_config(state: State, l2_normalize: bool) -> PerceiverConfig:
    """Infers the sizes from an official autoencoder's tensors, which do not show l2 normalisation."""
    num_latents, dim_latent = _shape(state, "perceiver_encoder.latents")
    max_len, dim_lm = _shape(state, "perceiver_encoder.pos_emb.emb.weight")
    perceiver = "perceiver_decoder.latents" in state
    return PerceiverConfig(
        dim_lm=dim_lm,
        dim_latent=dim_latent,
        num_latents=num_latents,
        depth=_count(state, r"perceiver_encoder\.layers\.(\d+)\."),
        max_len=max_len,
        l2_normalize=l2_normalize,
        decoder="perceiver" if perceiver else "transformer",
        num_decoder_latents=_shape(state, "perceiver_decoder.latents")[0] if perceiver else num_latents,
        ff_mult=_shape(state, "perceiver_encoder.layers.0.1.1.weight")[0] // dim_latent,
    )


def _resampler_names(published: str, ours: str, depth: int, own_kv: bool) -> dict[str, str]:
    names = {
        f"{published}.pos_emb.emb.weight": f"{ours}.pos_emb.weight",
        f"{published}.latents": f"{ours}.queries",
    }
    names |= _linear(f"{published}.final_norm", f"{ours}.norm")
    for i in range(depth):
        theirs, attn = f"{published}.layers.{i}.0", f"{ours}.attn.{i}"
        names |= _linear(f"{theirs}.norm", f"{attn}.input_norm")
        names |= _linear(f"{theirs}.norm_latents", f"{attn}.query_norm")
        names |= {
            f"{theirs}.to_q.weight": f"{attn}.to_q.weight",
            f"{theirs}.to_kv.weight": f"{attn}.to_kv.weight",
        }
        if own_kv:
            names[f"{theirs}.latent_to_kv.weight"] = f"{attn}.query_to_kv.weight"
        names |= _linear(f"{theirs}.to_out.0", f"{attn}.to_out") | _rms_names(theirs, attn)
        names |= _feed_forward_names(f"{published}.layers.{i}.1", f"{ours}.ff.{i}")
    return names


def _rms_names(published: str, ours: str) -> dict[str, str]:
    return {
        f"{published}.query_norm.gamma": f"{ours}.q_rms.gamma",
        f"{published}.key_norm.gamma": f"{ours}.k_rms.gamma",
    }


def _feed_forward_names(published: str, ours: str) -> dict[str, str]:
    return (
        _linear(f"{published}.0", f"{ours}.0")
        | _linear(f"{published}.1", f"{ours}.1")
        | _linear(f"{published}.4", f"{ours}.3")
    )


def perceiver_names(config: PerceiverConfig) -> dict[str, str]:
    """Official name -> name in `Perceiver`'s state dict."""
    own_kv = config.dim_lm != config.dim_latent
    names = _resampler_names("perceiver_encoder", "encoder", config.depth, own_kv)
    if config.decoder == "perceiver":
        return names | _resampler_names("perceiver_decoder", "decoder", config.depth, own_kv)
    names["perceiver_decoder.pos_emb.emb.weight"] = "decoder.pos_emb.weight"
    names |= _linear("perceiver_decoder.input_proj", "decoder.input_proj")
    names |= _linear("perceiver_decoder.final_norm", "decoder.norm")
    for i in range(config.depth):
        theirs, attn = f"perceiver_decoder.layers.{i}.0", f"decoder.attn.{i}"
        names |= _linear(f"{theirs}.norm", f"{attn}.norm") | _linear(f"{theirs}.to_out", f"{attn}.to_out")
        names |= {f"{theirs}.{part}.weight": f"{attn}.{part}.weight" for part in ("to_q", "to_k", "to_v")}
        names |= _rms_names(theirs, attn)
        names |= _feed_forward_names(f"perceiver_decoder.layers.{i}.1", f"decoder.ff.{i}")
    return names


def some(names: Iterable[str]) -> str:
    """The first names in order and how many more there are, for a message."""
    names = sorted(names)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def rename(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The state under other names.

    Raises:
        CheckpointError: unexpected or missing keys, which the message names.
    """
    if unknown := state.keys() - names.keys():
        raise CheckpointError(f"The checkpoint holds tensors that have no place here: {some(unknown)}.")
    if missing := names.keys() - state.keys():
        raise CheckpointError(f"The checkpoint lacks these tensors: {some(missing)}.")
    return {names[key]: tensor for key, tensor in state.items()}


def to_published(state: State, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Our state dict under published names."""
    return rename(state, {ours: published for published, ours in names.items()})


def check_numbers(name: str, tensor: Tensor, like: Tensor) -> None:
    """Refuses a tensor that cannot be copied without changing its values, or that is not finite.

    Raises:
        CheckpointError: a dtype of another kind than the model's, or elements that are not finite.
    """
    if tensor.is_floating_point() != like.is_floating_point() or tensor.is_complex():
        raise CheckpointError(f"{name} is stored as {tensor.dtype}, but the model needs {like.dtype}.")
    if not tensor.isfinite().all():
        raise CheckpointError(f"{name} has elements that are not finite; the file is damaged.")


def _fill(build: Callable[[], Model], state: State, names: Mapping[str, str]) -> Model:
    """The model that ``build`` returns, loaded with a published state; built only if the state fits.

    Raises:
        CheckpointError: names, shapes or dtypes that do not fit, by their published names.
    """
    renamed = rename(state, names)
    try:
        with torch.device("meta"):
            own = build().state_dict()
    except (LD4LGError, ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(f"The checkpoint's tensors are those of no model: {error}") from error
    for published, ours in names.items():
        if state[published].shape != own[ours].shape:
            raise CheckpointError(
                f"The checkpoint's tensors do not fit together: {published} has the shape "
                f"{tuple(state[published].shape)}, but the others ask for {tuple(own[ours].shape)}."
            )
        check_numbers(published, state[published], own[ours])
    model = build()
    model.load_state_dict(renamed)
    return model.eval()


def load_denoiser(state: State, dropout: float = 0.1) -> DiffusionTransformer:
    """An official denoiser's tensors as a `DiffusionTransformer` in evaluation mode."""
    config = replace(denoiser_config(state), dropout=dropout)
    return _fill(lambda: DiffusionTransformer(config), state, denoiser_names(config))


def load_denoiser_v1(state: State, dropout: float = 0.1) -> DiffusionTransformerV1:
    """An unofficial denoiser's tensors as a `DiffusionTransformerV1` in evaluation mode."""
    config = replace(denoiser_config_v1(state), dropout=dropout)
    return _fill(lambda: DiffusionTransformerV1(config), state, denoiser_names_v1(config))


def load_perceiver(state: State, l2_normalize: bool) -> Perceiver:
    """An official autoencoder's tensors as a `Perceiver` in evaluation mode."""
    config = perceiver_config(state, l2_normalize)
    return _fill(lambda: Perceiver(config), state, perceiver_names(config))
