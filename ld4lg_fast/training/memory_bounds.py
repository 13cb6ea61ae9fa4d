"""The least memory that training needs: less than it will take, so that what is refused could not have been trained."""

import os

import torch
from torch import nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models.layers import DIM_HEAD
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.train_section import StageOptions

TRAINED_BYTES, FROZEN_BYTES = 16, 4  # a parameter with its gradient and both moments of AdamW, or alone
NUMBER = 2  # bytes of a number of a batch in the narrowest precision
MASK = 2 * (1 + NUMBER)  # bytes of a pair of positions while a mask becomes a bias: both of them twice


def check_memory(options: str, model: nn.Module, stage: StageOptions, name: str, session: Session) -> None:
    """Refuses a model that the machine cannot hold, or not together with a batch.

    Args:
        options: those that decide the model's sizes. stage: the options of the stage called ``name`` that trains it.

    Raises:
        ConfigError: the sentence says what to lower.
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
    """Positions of a text that are there however short it is, and the bytes that they take at least.

    Zero where a text has no such positions, as in recipe v1, whose latents are as many as its tokens.
    """
    if isinstance(model, LanguageAutoencoder) and model.perceiver is not None:
        sizes = model.perceiver.config
        count, states = sizes.num_latents, sizes.depth * (sizes.dim_latent + sizes.dim_lm) * NUMBER
        return count, count * (count * MASK + states)
    if isinstance(model, LatentDiffusion) and not model.diffusion.discrete:
        network = model.denoiser.config
        count, states = network.max_len, network.depth * network.dim * NUMBER
        # Dropout falls on the scores themselves, which only a GPU never holds all at once.
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
