"""The networks of a run as the modules that become ONNX graphs, with their inputs and dynamic axes.

The loops around them are plain Python in `runtime`:

* ``denoiser``: one network evaluation;
* ``source``: a source text to the keys and values that every block of the denoiser attends to
  (sequence-to-sequence models only);
* ``encoder`` and ``context``: a block of a document to its latents, and the latents of the blocks before the one that
  is written to those keys and values (models that write documents only);
* ``latents``, ``decoder`` and ``cache``: the text decoder, see `decoder_graphs`.

Letters: B batch, N latent positions, d latent width, M source length.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.decoder_graphs import decoder_graphs
from ld4lg_fast.export.graph import Graph
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.models.denoiser import Conditions, DiffusionTransformer
from ld4lg_fast.models.denoiser_v1 import DiffusionTransformerV1
from ld4lg_fast.models.layers import attention_bias
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

FAMILIES = ("bart", "t5", "mt5")


class DenoiserV2(nn.Module):
    """`DiffusionTransformer` with boolean inputs instead of optional arguments."""

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
        """``has_self_cond`` (1,) and ``has_source`` (B,) bool select the learned vectors where False;
        ``source`` has the keys and values of `SourceEncoder`."""
        network = self.denoiser
        if x_self_cond is not None and has_self_cond is not None:
            x_self_cond = torch.where(has_self_cond, x_self_cond, network.init_self_cond.float())
        conditions = Conditions()
        if source is not None and source_mask is not None and has_source is not None:
            source_mask = _or_first(source_mask, has_source[:, None])
            null = [block.cross_attn.kv(network.null_context[None]) for block in network.blocks]
            given = has_source[:, None, None]
            keys_values = tuple(torch.where(given, kv, other) for kv, other in zip(source, null, strict=True))
            rows = torch.ones(z_t.shape[:2], dtype=torch.bool)
            source_bias = attention_bias(rows, source_mask, keys_values[0].dtype)
            conditions = Conditions(source=keys_values, source_bias=source_bias)
        inputs = network.network_input(z_t, x_self_cond)
        return network.run_blocks(inputs, network.modulate(time, class_id), conditions).float()


class DenoiserV1(nn.Module):
    """`DiffusionTransformerV1` with a boolean input instead of an optional self-condition."""

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
        """Inputs of `DenoiserV2` and the mask (B, N) of real positions; the output is undefined elsewhere."""
        network = self.denoiser
        conditions = network.conditions(z_t.shape[:2], mask=mask, class_id=class_id)
        if x_self_cond is None or has_self_cond is None:
            return network.run_blocks(z_t, network.modulate(time), conditions).float()
        # The learned token is at the first position, and the other positions are masked.
        real = _or_first(mask, has_self_cond)
        if class_id is not None:
            real = torch.cat([real, torch.ones_like(real[:, :1])], dim=1)
        cross_bias = attention_bias(mask, real, conditions.self_bias.dtype)
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
    """The mask (B, N) where ``given``, else the first position only (onnxruntime has no Where of booleans)."""
    first = torch.arange(mask.shape[1]) == 0
    return (mask & given) | (first & ~given)


class SourceEncoder(nn.Module):
    """Source token ids (B, M) with their mask to each denoiser block's cross-attention keys and values."""

    def __init__(self, autoencoder: LanguageAutoencoder, denoiser: DiffusionTransformer) -> None:
        super().__init__()
        self.autoencoder, self.denoiser = autoencoder, denoiser

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        states = self.autoencoder.language_model.encode(input_ids, attention_mask)
        tokens = self.denoiser.context_proj(states)
        return [block.cross_attn.kv(tokens) for block in self.denoiser.blocks]


class BlockEncoder(nn.Module):
    """Token ids (B, T) of blocks with their mask to latents (B, N, d)."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.autoencoder.encode(input_ids, attention_mask).float()  # type: ignore[operator]  # its method


class ContextOfBlocks(nn.Module):
    """Latents (C, N, d) of distinct blocks and the places of those before each row (B, K) among them, to each denoiser
    block's keys and values and their mask (B, M)."""

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, latents: Tensor, index: Tensor, num_blocks: Tensor, begins: Tensor, continues: Tensor
    ) -> list[Tensor]:
        context = BlockContext(latents, index, num_blocks, begins, continues)
        states, mask = self.model.encode_blocks(context)
        denoiser: Any = self.model.denoiser
        tokens = denoiser.context_proj(states)
        return [*(block.cross_attn.kv(tokens) for block in denoiser.blocks), mask]


def make_graphs(pipe: TextDiffusionPipeline) -> list[Graph]:
    """All graphs of a pipeline.

    Raises:
        ConfigError: an encoder-decoder model of another family than BART, T5 and mT5, or a decoder-only one that
            `causal_graphs.check_causal` refuses.
    """
    config = pipe.autoencoder.lm.config
    family = config.model_type
    if config.is_encoder_decoder and family not in FAMILIES:
        raise ConfigError(
            f"Language models of the family {family!r} cannot be exported; train with one of {', '.join(FAMILIES)}."
        )
    graphs = [_denoiser_graph(pipe), *decoder_graphs(pipe)]
    denoiser = pipe.model.denoiser
    if pipe.model.is_seq2seq and isinstance(denoiser, DiffusionTransformer):
        graphs.append(_source_graph(SourceEncoder(pipe.autoencoder, denoiser)))
    if pipe.model.writes_documents:
        graphs += _document_graphs(pipe)
    return graphs


def _denoiser_graph(pipe: TextDiffusionPipeline) -> Graph:
    denoiser, discrete = pipe.model.denoiser, pipe.model.diffusion.discrete
    config = denoiser.config
    batch, length, width = 3, config.max_len - 1 if discrete else config.max_len, config.dim_latent
    latents, rows = {0: "batch"} | ({1: "positions"} if discrete else {}), {0: "batch"}
    # Without classes, all samples of a batch share one modulation.
    inputs: dict[str, Tensor | list[Tensor]] = {
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
    if pipe.model.is_seq2seq or pipe.model.writes_documents:
        kv = denoiser.blocks[0].cross_attn.kv
        shape, positions = (batch, 5, kv.out_features), {0: "batch", 1: "source"}
        inputs["source"] = [torch.zeros(shape, dtype=kv.weight.dtype) for _ in range(config.depth)]
        inputs["source_mask"] = torch.ones(batch, 5, dtype=torch.bool)
        inputs["has_source"] = torch.ones(batch, dtype=torch.bool)
        axes |= {"source": positions, "source_mask": positions, "has_source": rows}
    module = DenoiserV2(denoiser) if isinstance(denoiser, DiffusionTransformer) else DenoiserV1(denoiser)
    return Graph("denoiser", module, inputs, axes, ["output"])


def _source_graph(module: SourceEncoder) -> Graph:
    inputs, axes = _texts()
    outputs = [f"source.{block}" for block in range(module.denoiser.config.depth)]
    return Graph("source", module, inputs, axes, outputs)


def _document_graphs(pipe: TextDiffusionPipeline) -> list[Graph]:
    model, (inputs, axes) = pipe.model, _texts()
    encoder = Graph("encoder", BlockEncoder(pipe.autoencoder), inputs, axes, ["latents"])
    config = model.denoiser.config
    seen: dict[str, Tensor | list[Tensor]] = {
        "latents": torch.zeros(3, config.max_len, config.dim_latent),
        "index": torch.zeros(2, model.recipe["context_blocks"], dtype=torch.long),
        "num_blocks": torch.ones(2, dtype=torch.long),
        "begins": torch.ones(2, dtype=torch.bool),
        "continues": torch.zeros(2, dtype=torch.bool),
    }
    names = [*(f"source.{block}" for block in range(config.depth)), "source_mask"]
    rows = {name: {0: "batch"} for name in seen} | {"latents": {0: "blocks"}}
    return [encoder, Graph("context", ContextOfBlocks(model), seen, rows, names)]


def _texts() -> tuple[dict[str, Tensor | list[Tensor]], dict[str, dict[int, str]]]:
    """Token ids and their mask, as a graph takes them, and their dynamic axes."""
    inputs: dict[str, Tensor | list[Tensor]] = {
        "input_ids": torch.ones(2, 5, dtype=torch.long),
        "attention_mask": torch.ones(2, 5, dtype=torch.bool),
    }
    return inputs, {name: {0: "batch", 1: "source"} for name in inputs}
