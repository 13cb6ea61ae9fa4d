"""The published training loop and ours from the same weights, batches and draws: the same losses for 100 steps."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from conftest import RECIPE, randomize

from benchmarks.reference.training import Trainer, autoencoder_loss, diffusion_loss
from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder
from benchmarks.reference.v2_denoiser import DiffusionTransformer
from benchmarks.reference.v2_diffusion import GaussianDiffusion
from ld4lg_fast import interop
from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, generate_demo_texts, tokenize_texts
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.smoothing import NO_SMOOTHING
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.conditioned_latents import ConditionedLatents
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.latent_cache import encode_latents
from ld4lg_fast.training.learner import Learner, Part
from ld4lg_fast.training.optimization import learning_rate
from ld4lg_fast.training.options import StageOptions
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows

STEPS, MAX_LEN = 100, 32
OPTIONS = StageOptions(STEPS, 8, 1e-3, 10, 0.01, 1.0, 0.9999)


@pytest.fixture
def session():
    options = SimpleNamespace(
        autoencoder=OPTIONS,
        diffusion=OPTIONS,
        activation_checkpointing=False,
        compiles=lambda device: False,
    )
    return Session(Accelerator(cpu=True), None, options, 0, None, Interrupts(), None)


@pytest.fixture
def published(autoencoder):
    """The published Perceiver around a small frozen language model."""
    torch.manual_seed(1)
    perceiver = PerceiverAutoencoder(64, 8, 1, 6, 6, MAX_LEN)
    return randomize(perceiver, std=0.15), autoencoder.lm.requires_grad_(False).eval()


@pytest.fixture
def ours(autoencoder, published):
    perceiver = interop.load_perceiver(published[0].state_dict(), l2_normalize=False)
    return LanguageAutoencoder(published[1], autoencoder.tokenizer, perceiver, MAX_LEN, freeze_lm=True)


@pytest.fixture
def tokens(autoencoder):
    return tokenize_texts(generate_demo_texts(64), autoencoder.tokenizer, MAX_LEN)


def compare(stage, session, tokens, trainer, draws=lambda step: {}):
    """Trains both side by side; each step's losses and gradient norms have to agree."""
    learner, expected, figures = Learner(stage, session), [], []
    for step in range(STEPS):
        rate = learning_rate(OPTIONS, step, step / STEPS)
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        ids, mask = collate([tokens[i] for i in stage.batches[step]], 1, multiple_of=MAX_LEN)
        expected.append(trainer.step(ids, mask.long(), **draws(step)))
        figures.append(learner.step(step, rate))
    figures = torch.stack(figures)
    torch.testing.assert_close(figures, torch.tensor(expected), rtol=2e-3, atol=1e-4)
    assert figures[-10:, 0].mean() < 0.95 * figures[:10, 0].mean(), "both learn"


def test_diffusion_losses(session, published, ours, tokens):
    torch.manual_seed(2)
    network = DiffusionTransformer(64, 3, 1, 8, 6, dropout=0.0, num_dense_connections=1)
    model = LatentDiffusion(interop.load_denoiser(network.state_dict(), dropout=0.0), RECIPE).train()
    latents = encode_latents(ours, tokens, session, range(len(tokens)))
    stage = DiffusionStage(model, ConditionedLatents(Rows([latents])), None, session)

    process = GaussianDiffusion(network, max_seq_len=6)
    process.latent_mean, process.latent_scale = model.latent_mean.clone(), model.latent_scale.clone()
    loss = diffusion_loss(process, published[1], published[0])
    trainer = Trainer(network, loss, OPTIONS.learning_rate, OPTIONS.weight_decay, OPTIONS.ema_decay)

    def draws(step):
        _, drawn, _ = stage.batch(step, Part())
        return {"times": drawn.t, "noise": drawn.noise, "coin": 0.0 if drawn.self_condition else 1.0}

    compare(stage, session, tokens, trainer, draws)
    averaged = interop.load_denoiser(trainer.ema.average.state_dict(), dropout=0.0)
    # AdamW turns rounding errors of near-zero gradients into whole steps, so weights agree less than losses.
    for (name, mine), theirs in zip(
        stage.ema.module.denoiser.named_parameters(), averaged.parameters(), strict=True
    ):
        assert (mine - theirs).abs().mean() < 1e-4, name


def test_autoencoder_losses(session, published, ours, tokens):
    stage = AutoencoderStage(ours.train(), tokens, [], session, smoothing=NO_SMOOTHING)
    perceiver, lm = published
    trainer = Trainer(perceiver, autoencoder_loss(perceiver, lm), OPTIONS.learning_rate, OPTIONS.weight_decay)
    compare(stage, session, tokens, trainer)
