"""The networks of a run as the modules that become ONNX graphs, with their inputs and dynamic axes.

Four graphs cover sampling and decoding; the loops around them are plain Python in `runtime`:

* ``denoiser``: one network evaluation;
* ``latents``: latents to the keys and values that every layer of the language model's decoder attends to;
* ``decoder``: one decoding step with its key/value cache, whose rows can be reordered (beams) in passing;
* ``source``: a source text to the keys and values that every block of the denoiser attends to
  (sequence-to-sequence models only).

Letters: B batch, N latent positions, d latent width, M source length, R decoded rows (B, or B times the
beams), P cached tokens, W language model width, V vocabulary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.denoiser import Conditions, DiffusionTransformer
from ld4lg_fast.denoiser_v1 import DiffusionTransformerV1
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.layers import attention_bias
from ld4lg_fast.pipeline import TextDiffusionPipeline

FAMILIES = ("bart", "t5", "mt5")

Axes = dict[int, str]


@dataclass(frozen=True)
class Graph:
    """A module, example ``inputs`` for its ``forward`` (tensors or lists of them), and the names of its outputs.

    ``axes`` gives the dynamic axes of each input a name; equal names are equal sizes. Sizes in the example differ
    where names do, so that the exporter never takes two axes for one.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor | list[Tensor]]
    axes: dict[str, dict[int, str]]
    outputs: list[str]

    def input_names(self) -> list[str]:
        """One name for each tensor: those of a cache are ``past.0.key``, ``past.0.value``, ``past.1.key``, …"""
        names = []
        for name, value in self.inputs.items():
            if name == "source":
                names += [f"source.{block}" for block in range(len(value))]
            else:
                names += cache_names(name, len(value) // 2) if isinstance(value, list) else [name]
        return names


class DenoiserV2(nn.Module):
    """`DiffusionTransformer` with switches in place of left-out arguments."""

    def __init__(self, denoiser: DiffusionTransformer) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        z_t: Tensor,
        time: Tensor,
        x_self_cond: Tensor | None = None,
        has_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
        source: list[Tensor] | None = None,
        source_mask: Tensor | None = None,
        has_source: Tensor | None = None,
    ) -> Tensor:
        """``has_self_cond`` (1,) and ``has_source`` (B,) bool choose the learned vectors where they are False;
        ``source`` are the keys and values of `SourceEncoder`."""
        network = self.denoiser
        if x_self_cond is not None:
            x_self_cond = torch.where(has_self_cond, x_self_cond, network.init_self_cond.float())
        conditions = Conditions()
        if source is not None:
            source_mask = _or_first(source_mask, has_source[:, None])
            null = [block.cross_attn.kv(network.null_context[None]) for block in network.blocks]
            given = has_source[:, None, None]
            source = tuple(torch.where(given, kv, other) for kv, other in zip(source, null, strict=True))
            rows = torch.ones(z_t.shape[:2], dtype=torch.bool)
            conditions = Conditions(
                source=source, source_bias=attention_bias(rows, source_mask, source[0].dtype)
            )
        inputs = network.network_input(z_t, x_self_cond)
        return network.run_blocks(inputs, network.modulate(time, class_id), conditions).float()


class DenoiserV1(nn.Module):
    """`DiffusionTransformerV1` with a switch in place of a left-out self-condition."""

    def __init__(self, denoiser: DiffusionTransformerV1) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self,
        z_t: Tensor,
        time: Tensor,
        mask: Tensor,
        x_self_cond: Tensor | None = None,
        has_self_cond: Tensor | None = None,
        class_id: Tensor | None = None,
    ) -> Tensor:
        """Inputs as those of `DenoiserV2`, and the mask (B, N) of real positions; output elsewhere means nothing."""
        network = self.denoiser
        conditions = network.conditions(z_t.shape[:2], mask, class_id=class_id)
        if x_self_cond is None:
            return network.run_blocks(z_t, network.modulate(time), conditions).float()
        # The learned token stands in the first place, and the other places are masked.
        real = _or_first(mask, has_self_cond)
        if class_id is not None:
            real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
        cross_bias = attention_bias(mask, real, conditions.cross_bias.dtype)
        start = network.null_self_cond
        switch = network.self_cond_proj.register_forward_hook(
            lambda module, inputs, tokens: torch.where(has_self_cond, tokens, start)
        )
        try:
            inputs, conditions = (
                network.network_input(z_t, x_self_cond),
                replace(conditions, cross_bias=cross_bias),
            )
            return network.run_blocks(inputs, network.modulate(time), conditions).float()
        finally:
            switch.remove()


def _or_first(mask: Tensor, given: Tensor) -> Tensor:
    """The mask (B, N) where ``given``, elsewhere the first place alone (onnxruntime has no Where of booleans)."""
    first = torch.arange(mask.shape[1]) == 0
    return (mask & given) | (first & ~given)


class LatentsToCache(nn.Module):
    """Latents (B, N, d) to each decoder layer's cross-attention keys and values (R, heads, N, width), for ``rows``
    (R,) of the batch, so that the beams of a sentence share the work."""

    def __init__(self, pipe: TextDiffusionPipeline) -> None:
        super().__init__()
        self.autoencoder = pipe.autoencoder

    def forward(self, latents: Tensor, rows: Tensor) -> list[Tensor]:
        lm = self.autoencoder.lm
        states = self.autoencoder.decode_states(latents.to(lm.dtype)).to(lm.dtype)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        start = torch.zeros((latents.shape[0], 1), dtype=torch.long)
        # Only the keys and values that depend on the states stay in the graph, not this token's pass.
        lm.get_decoder()(input_ids=start, encoder_hidden_states=states, past_key_values=cache, use_cache=True)
        return [tensor.index_select(0, rows) for tensor in _tensors(cache.cross_attention_cache)]


class DecoderStep(nn.Module):
    """One token for each row: ``tokens`` (R, 1) and caches to logits (R, V) and the grown cache."""

    def __init__(self, pipe: TextDiffusionPipeline) -> None:
        super().__init__()
        self.lm = pipe.autoencoder.lm

    def forward(
        self,
        tokens: Tensor,
        rows: Tensor,
        past: list[Tensor],
        cross: list[Tensor],
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """``past`` and ``cross``: key, value, key, value, … of each layer; row r of the step continues row
        ``rows[r]`` of ``past``. ``mask`` (R, N): recipe v1's real positions."""
        past = [tensor.index_select(0, rows) for tensor in past]
        cache = EncoderDecoderCache(_cache(past), _cache(cross))
        width = self.lm.config.hidden_size
        states = torch.zeros((tokens.shape[0], cross[0].shape[2], width), dtype=self.lm.dtype)
        output = self.lm(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),  # its shape alone is used
            attention_mask=None if mask is None else mask.long(),
            decoder_input_ids=tokens,
            past_key_values=cache,
            use_cache=True,
        )
        return [output.logits[:, -1].float(), *_tensors(cache.self_attention_cache)]


class SourceEncoder(nn.Module):
    """Source token ids (B, M) with their mask to each denoiser block's cross-attention keys and values."""

    def __init__(self, pipe: TextDiffusionPipeline) -> None:
        super().__init__()
        self.encoder, self.denoiser = pipe.autoencoder.lm.get_encoder(), pipe.model.denoiser

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask.long()).last_hidden_state
        tokens = self.denoiser.context_proj(states)
        return [block.cross_attn.kv(tokens) for block in self.denoiser.blocks]


def _cache(tensors: list[Tensor]) -> DynamicCache:
    return DynamicCache(list(zip(tensors[0::2], tensors[1::2], strict=True)))


def _tensors(cache: DynamicCache) -> list[Tensor]:
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


def make_graphs(pipe: TextDiffusionPipeline) -> list[Graph]:
    """All graphs of a pipeline whose language model computes attention in plain operations.

    Raises:
        ConfigError: a language model of another family than BART, T5 and mT5.
    """
    family = pipe.autoencoder.lm.config.model_type
    if family not in FAMILIES:
        raise ConfigError(
            f"Language models of the family {family!r} cannot be exported; train with one of {', '.join(FAMILIES)}."
        )
    graphs = [_denoiser_graph(pipe), *_language_model_graphs(pipe)]
    return [*graphs, _source_graph(pipe)] if pipe.model.is_seq2seq else graphs


def _denoiser_graph(pipe: TextDiffusionPipeline) -> Graph:
    config, discrete = pipe.model.denoiser.config, pipe.model.diffusion.discrete
    batch, length, width = 3, config.max_len - 1 if discrete else config.max_len, config.dim_latent
    latents, rows = {0: "batch"} | ({1: "positions"} if discrete else {}), {0: "batch"}
    # Without classes, all samples of a batch share one modulation.
    inputs: dict = {
        "z_t": torch.zeros(batch, length, width),
        "time": torch.ones(batch if config.class_modulates else 1),
    }
    axes = {"z_t": latents, "time": rows if config.class_modulates else {}}
    if discrete:
        inputs["mask"], axes["mask"] = torch.ones(batch, length, dtype=torch.bool), latents
    if config.self_condition:
        inputs["x_self_cond"], axes["x_self_cond"] = torch.zeros(batch, length, width), latents
        inputs["has_self_cond"] = torch.ones(1, dtype=torch.bool)
    if config.num_classes:
        inputs["class_id"], axes["class_id"] = torch.zeros(batch, dtype=torch.long), rows
    if pipe.model.is_seq2seq:
        kv = pipe.model.denoiser.blocks[0].cross_attn.kv
        shape, positions = (batch, 5, kv.out_features), {0: "batch", 1: "source"}
        inputs["source"] = [torch.zeros(shape, dtype=kv.weight.dtype) for _ in range(config.depth)]
        inputs["source_mask"] = torch.ones(batch, 5, dtype=torch.bool)
        inputs["has_source"] = torch.ones(batch, dtype=torch.bool)
        axes |= {"source": positions, "source_mask": positions, "has_source": rows}
    module = (DenoiserV1 if discrete else DenoiserV2)(pipe.model.denoiser)
    return Graph("denoiser", module, inputs, axes, ["output"])


def _language_model_graphs(pipe: TextDiffusionPipeline) -> list[Graph]:
    autoencoder = pipe.autoencoder
    lm, has_mask = autoencoder.lm, autoencoder.perceiver is None
    config = lm.config
    num_layers = lm.get_decoder().config.num_hidden_layers
    num_heads = config.decoder_attention_heads if config.model_type == "bart" else config.num_heads
    dim_head = config.d_model // num_heads if config.model_type == "bart" else config.d_kv
    latents = torch.zeros(2, autoencoder.num_latents - has_mask, autoencoder.dim_latent)
    latent_axes = {0: "batch", 1: "positions"} if has_mask else {0: "batch"}
    to_cache = Graph(
        "latents",
        LatentsToCache(pipe),
        {"latents": latents, "rows": torch.zeros(3, dtype=torch.long)},
        {"latents": latent_axes, "rows": {0: "rows"}},
        cache_names("cross", num_layers),
    )

    def cache(rows: int, length: int) -> list[Tensor]:
        return [torch.zeros(rows, num_heads, length, dim_head, dtype=lm.dtype) for _ in range(2 * num_layers)]

    rows, positions = 3, 7
    inputs = {
        "tokens": torch.zeros(rows, 1, dtype=torch.long),
        "rows": torch.zeros(rows, dtype=torch.long),
        "past": cache(4, 5),
        "cross": cache(rows, positions),
    }
    axes = {
        "tokens": {0: "rows"},
        "rows": {0: "rows"},
        "past": {0: "past_rows", 2: "past"},
        "cross": {0: "rows", 2: "positions"},
    }
    if has_mask:
        inputs["mask"] = torch.ones(rows, positions, dtype=torch.bool)
        axes["mask"] = {0: "rows", 1: "positions"}
    outputs = ["logits", *cache_names("present", num_layers)]
    return [to_cache, Graph("decoder", DecoderStep(pipe), inputs, axes, outputs)]


def _source_graph(pipe: TextDiffusionPipeline) -> Graph:
    inputs = {
        "input_ids": torch.ones(2, 5, dtype=torch.long),
        "attention_mask": torch.ones(2, 5, dtype=torch.bool),
    }
    axes = {name: {0: "batch", 1: "source"} for name in inputs}
    outputs = [f"source.{block}" for block in range(pipe.model.denoiser.config.depth)]
    return Graph("source", SourceEncoder(pipe), inputs, axes, outputs)


def cache_names(prefix: str, num_layers: int) -> list[str]:
    """``past.0.key``, ``past.0.value``, ``past.1.key``, …"""
    return [f"{prefix}.{layer}.{kind}" for layer in range(num_layers) for kind in ("key", "value")]
