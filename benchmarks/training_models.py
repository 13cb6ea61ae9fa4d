"""Both stages of a config for the training benchmark: the published loop, and this library's, of the same sizes."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import count
from types import SimpleNamespace

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from benchmarks.language_models import random_bart
from benchmarks.paper_models import SamplingSetup, corpus_lengths, make_setup
from benchmarks.reference.training import Trainer, autoencoder_loss, diffusion_loss
from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION
from ld4lg_fast.data import TokenizedTexts, collate
from ld4lg_fast.models import parameter_names
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.conditioned_latents import ConditionedLatents
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_section import TrainOptions, read_options

STAGES = ("autoencoder", "diffusion")
MAX_LEN, PAD = 64, 1
STEPS = 2  # of one call: with and without self-condition, or shorter and longer texts
PERCEIVER_DEPTH = {"bart-base": 3, "small": 1}


@dataclass(frozen=True)
class OneProcess:
    """What a `Session` asks of Accelerate."""

    device: torch.device
    precision: AbstractContextManager
    process_index: int = 0
    num_processes: int = 1

    def autocast(self) -> AbstractContextManager:
        return self.precision


class TrainingSetup:
    """One stage of a config at one batch size, on E2E's lengths, with random weights and token ids.

    ``published`` is the published loop's trainer and ``network`` the part of it that the remedies go to;
    ``stage(session)`` is this library's stage.
    """

    def __init__(self, config: str, stage: str, batch: int, device: str) -> None:
        self.stage_name, self.batch, self.device = stage, batch, torch.device(device)
        size = "small" if config == "small" else "bart-base"
        torch.manual_seed(0)
        self.lm = random_bart(size).to(device)
        self.lm.requires_grad_(False)
        setup = make_setup(config, device)
        self.perceiver = None
        if config != "paper-v1":
            denoiser, width = setup.ours.denoiser.config, self.lm.config.d_model
            n = denoiser.max_len
            depth = PERCEIVER_DEPTH[size]
            self.perceiver = PerceiverAutoencoder(width, denoiser.dim_latent, depth, n, n, MAX_LEN).to(device)
        self.tokens = _random_texts(STEPS * batch, self.lm.config.vocab_size)
        self.options = _paper_options(batch)
        self._build(setup)

    def _build(self, setup: SamplingSetup) -> None:
        options = getattr(self.options, self.stage_name)
        if self.stage_name == "autoencoder":
            self.network: nn.Module = self.perceiver.train()
            loss, ema = autoencoder_loss(self.perceiver, self.lm), None
        else:
            self.network, self.setup = setup.network.train(), setup
            process = setup.make_process(self.network, 1).to(self.device)
            frozen = None if self.perceiver is None else self.perceiver.eval()
            loss, ema = diffusion_loss(process, self.lm, frozen), options.ema_decay
        self.published = Trainer(self.network, loss, options.learning_rate, options.weight_decay, ema)

    def published_steps(self) -> None:
        """`STEPS` steps of the published loop, every text padded to 64 tokens."""
        for step in range(STEPS):
            texts = range(step * self.batch, (step + 1) * self.batch)
            ids, mask = collate([self.tokens[i] for i in texts], PAD, multiple_of=MAX_LEN)
            draws = {} if self.stage_name == "autoencoder" else {"coin": float(step % 2)}
            self.published.step(ids.to(self.device), mask.long().to(self.device), **draws)

    def stage(self, session: Session) -> AutoencoderStage | DiffusionStage:
        if self.stage_name == "autoencoder":
            perceiver = parameter_names.load_perceiver(self.perceiver.state_dict(), l2_normalize=False)
            tokenizer = SimpleNamespace(pad_token_id=PAD)
            autoencoder = LanguageAutoencoder(self.lm, tokenizer, perceiver, MAX_LEN, freeze_lm=True)
            return AutoencoderStage(
                autoencoder.train(), self.tokens, [], session, augmentation=NO_AUGMENTATION
            )
        model = self.setup.ours.train()
        shape = (len(self.tokens), model.denoiser.config.max_len, model.denoiser.config.dim_latent)
        lengths = self.tokens.lengths if model.diffusion.discrete else None
        stage = DiffusionStage(model, ConditionedLatents(Rows([torch.randn(shape)]), lengths), None, session)
        draw, steps = model.draw, count()

        def alternating(latents: Tensor, generator: torch.Generator):
            return replace(draw(latents, generator), self_condition=next(steps) % 2 == 0)

        model.draw = alternating
        return stage


def _random_texts(number: int, vocab_size: int) -> TokenizedTexts:
    """Random token ids as long as E2E's texts, the longer half after the shorter one."""
    lengths = np.sort(np.resize(corpus_lengths().numpy(), number))
    flat = np.random.default_rng(0).integers(4, vocab_size, lengths.sum(), dtype=np.int32)
    return TokenizedTexts(flat, np.concatenate([[0], np.cumsum(lengths)]), 0)


def _paper_options(batch: int) -> TrainOptions:
    """The ``train`` section as the package has it, which are the paper's numbers; read without Hydra."""
    section = yaml.safe_load((files("ld4lg_fast.configs") / "train.yaml").read_text("utf-8"))["train"]
    for stage in STAGES:
        section[stage]["batch_size"] = batch
    return read_options(section)
