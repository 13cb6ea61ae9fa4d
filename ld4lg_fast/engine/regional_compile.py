"""Repeated regions of a model, which are compiled, recomputed in the backward pass, or sharded one by one."""

from collections.abc import Iterator
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from ld4lg_fast.models.layers import GEGLUFeedForward, SelfAttention
from ld4lg_fast.models.perceiver import PerceiverAttention, RMSSelfAttention

KINDS = (
    SelfAttention,
    GEGLUFeedForward,
    PerceiverAttention,
    RMSSelfAttention,
    GradientCheckpointingLayer,  # a layer of any language model
)


def regions(model: nn.Module) -> Iterator[nn.Module]:
    """Self-attention and feed-forward modules of our networks, and the layers of a language model."""
    for child in model.children():
        if isinstance(child, KINDS):
            yield child
        else:
            yield from regions(child)


def compile_regions(model: nn.Module) -> None:
    """Regional ``torch.compile``: one compilation serves all blocks, and the state dict keeps its names."""
    for region in regions(model):
        region.compile()


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_regions` has been called for the model; copies of a module are not compiled."""
    return any(region._compiled_call_impl is not None for region in regions(model))


def recompute_activations(model: nn.Module) -> None:
    """Activation checkpointing (Chen et al. 2016): a region keeps only its inputs and recomputes the rest."""
    for region in regions(model):
        region.forward = partial(checkpoint, region.forward, use_reentrant=False)
