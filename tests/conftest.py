"""Fixtures of all tests: a tokenizer, an autoencoder and small models with random weights."""

import os
import signal
import sys

import pytest
import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts, train_bpe_tokenizer
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion

if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores, and so do the commands that they start.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# Tests that are started in the background ignore Ctrl-C, and the commands that they start would inherit that.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler)

RECIPE = {
    "version": "v2",
    "objective": "pred_v",
    "loss_type": "l2",
    "self_condition_prob": 0.5,
    "class_drop_prob": 0.1,
    "schedule": "cosine",
    "schedule_scale": 1.0,
    "sampling_schedule": None,
    "l2_normalized": False,
    "source_max_len": 32,
}
PERCEIVER = {"num_latents": 6, "dim_latent": 8, "depth": 1, "l2_normalize": False}


def randomize(module: torch.nn.Module, seed: int = 0, std: float = 0.1) -> torch.nn.Module:
    """Sets all parameters to random values, so that no zero-initialised layer hides an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * std
            parameter.copy_(1 + noise if "norm.weight" in name else noise)
    return module


@pytest.fixture(autouse=True)
def accelerate_forgets():
    """Resets accelerate's state, which keeps the first precision of a process."""
    yield
    if (state := sys.modules.get("accelerate.state")) is not None:
        state.AcceleratorState._reset_state(reset_partial_state=True)
        state.GradientState._reset_state()


@pytest.fixture(scope="session")
def tokenizer():
    return train_bpe_tokenizer(generate_demo_texts(300), vocab_size=400)


@pytest.fixture
def autoencoder(tokenizer):
    torch.manual_seed(0)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    model = LanguageAutoencoder.from_scratch(tokenizer, lm, PERCEIVER, max_len=32)
    return randomize(model, std=0.2).eval()


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run of `small_runs.SMALLEST` and what its training printed; read it, or copy it first."""
    from tests.training.small_runs import command, printed

    run_dir = tmp_path_factory.mktemp("finished") / "run"
    return run_dir, printed(command, run_dir)


def make_model(seed: int = 0, recipe: dict | None = None, **denoiser) -> LatentDiffusion:
    sizes = {"dim": 64, "depth": 2, "dim_latent": 8, "max_len": 6, "num_dense_connections": 0, "dropout": 0.0}
    model = LatentDiffusion.create(RECIPE | (recipe or {}), sizes | denoiser)
    randomize(model.denoiser, seed)
    model.set_statistics(torch.randn(50, 6, 8, generator=torch.Generator().manual_seed(9)) * 2 + 1)
    return model.eval()
