"""A lower bound of the memory that training needs, to refuse models that cannot be trained on this machine."""

import os

import torch
from torch import nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.train_section import StageOptions

TRAINED_BYTES, FROZEN_BYTES = 16, 4  # of a parameter with gradient and both AdamW moments, and without
NUMBER = 2  # bytes of an activation in the narrowest precision
MASK = 2 * (1 + NUMBER)  # bytes per pair of positions while a mask becomes a bias: two copies of each


def check_memory(options: str, model: nn.Module, stage: StageOptions, name: str, session: Session) -> None:
    """Checks that the model's parameters and one batch fit into memory.

    Args:
        options: names of the options that set the model's sizes, for the message.
        stage: options of the stage ``name`` that trains the model.

    Raises:
        ConfigError: they do not; the message says what to lower.
    """
    parameters = sum(
        p.numel() * (TRAINED_BYTES if p.requires_grad else FROZEN_BYTES) for p in model.parameters()
    )
    parameters //= session.world_size if session.shards_models else 1
    total = _memory_of(session.device)
    if parameters > total:
        raise ConfigError(
            f"{options}: training so large a model needs {_gib(parameters)} of memory for its parameters alone, of "
            f"which there are {_gib(total)}; choose smaller sizes."
        )
    texts = stage.batch_size // (session.world_size * stage.micro_batches)
    num_latents, each = bytes_of_a_text(model, session.device)
    if parameters + texts * each > total:
        raise ConfigError(
            f"model.perceiver.num_latents={num_latents}: training so large a model needs at least "
            f"{_gib(parameters + texts * each)} of memory with {texts} texts at once, of which there are "
            f"{_gib(total)}; lower it, lower train.{name}.batch_size, or raise train.{name}.micro_batches."
        )


def bytes_of_a_text(model: nn.Module, device: torch.device) -> tuple[int, int]:
    """Number of latent positions per text, whatever its length, and a lower bound of their bytes.

    Zeros in recipe v1, where the number of latents is the number of tokens.
    """
    if isinstance(model, LanguageAutoencoder) and model.perceiver is not None:
        sizes = model.perceiver.config
        count, states = sizes.num_latents, sizes.depth * (sizes.dim_latent + sizes.dim_lm) * NUMBER
        return count, count * (count * MASK + states)
    if isinstance(model, LatentDiffusion) and not model.diffusion.discrete:
        network = model.denoiser.config
        count, states = network.max_len, network.depth * network.dim * NUMBER
        # With dropout the CPU attention stores all scores; the GPU kernels never do.
        scores = (
            (network.heads or network.dim // DIM_HEAD) * NUMBER
            if network.dropout and device.type == "cpu"
            else 0
        )
        return count, count * (count * scores + states)
    return 0, 0


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gib(count: int) -> str:
    return f"{count / 2**30:,.0f} GiB"
