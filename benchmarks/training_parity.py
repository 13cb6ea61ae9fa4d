"""The published training loop and this library's on the same weights, batches and draws. Letter: S steps."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.paper_models import V2_RECIPE
from benchmarks.reference.training import Trainer, autoencoder_loss, diffusion_loss
from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder
from benchmarks.reference.v2_denoiser import DiffusionTransformer
from benchmarks.reference.v2_diffusion import GaussianDiffusion
from benchmarks.training_models import PAD, OneProcess
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION
from ld4lg_fast.data import TokenizedTexts, collate
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.models import parameter_names
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.conditioned_latents import ConditionedLatents
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.interrupts import Interrupts
from ld4lg_fast.training.latent_cache import encode_latents
from ld4lg_fast.training.optimization import learning_rate
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_section import StageOptions
from ld4lg_fast.training.train_step import Part, TrainStep

MAX_LEN = 32


@dataclass
class Parity:
    """Both loops around published models, which `published` trains in place: call `ours` before."""

    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    perceiver: PerceiverAutoencoder
    network: DiffusionTransformer
    tokens: TokenizedTexts
    options: StageOptions

    def ours(
        self, name: str, precision: AbstractContextManager | None = None
    ) -> tuple[AutoencoderStage | DiffusionStage, Tensor]:
        """The stage after its steps, and each step's loss and gradient norm (S, 2)."""
        options = SimpleNamespace(
            autoencoder=self.options,
            diffusion=self.options,
            activation_checkpointing=False,
            cuda_graph=False,
            compiles=lambda device: False,
        )
        processes = OneProcess(torch.device("cpu"), precision or nullcontext())
        stage = self._stage(name, Session(processes, None, options, 0, None, Interrupts(), None))
        train_step = TrainStep(stage, stage.session)
        return stage, torch.stack([train_step(step, self._rate(step)) for step in range(self.options.steps)])

    def _stage(self, name: str, session: Session) -> AutoencoderStage | DiffusionStage:
        perceiver = parameter_names.load_perceiver(self.perceiver.state_dict(), l2_normalize=False)
        autoencoder = LanguageAutoencoder(self.lm, self.tokenizer, perceiver, MAX_LEN, freeze_lm=True)
        if name == "autoencoder":
            return AutoencoderStage(
                autoencoder.train(), self.tokens, [], session, augmentation=NO_AUGMENTATION
            )
        model = LatentDiffusion(
            parameter_names.load_denoiser(self.network.state_dict(), dropout=0.0), V2_RECIPE
        )
        latents = encode_latents(autoencoder.eval(), self.tokens, session.device, range(len(self.tokens)))
        return DiffusionStage(model.train(), ConditionedLatents(Rows([latents])), None, session)

    def published(self, stage: AutoencoderStage | DiffusionStage) -> tuple[Trainer, Tensor]:
        """The published loop on the batches and draws of ``stage``: its trainer and figures (S, 2)."""
        options, network = self.options, self.perceiver
        loss, ema = autoencoder_loss(self.perceiver, self.lm), None
        if stage.name == "diffusion":
            network: nn.Module = self.network
            process = GaussianDiffusion(network, max_seq_len=stage.module.denoiser.config.max_len)
            process.latent_mean = stage.module.latent_mean.clone()
            process.latent_scale = stage.module.latent_scale.clone()
            loss, ema = diffusion_loss(process, self.lm, self.perceiver), options.ema_decay
        trainer = Trainer(network, loss, options.learning_rate, options.weight_decay, ema)
        figures = []
        for step in range(options.steps):
            for group in trainer.optimizer.param_groups:
                group["lr"] = self._rate(step)
            ids, mask = collate([self.tokens[i] for i in stage.batches[step]], PAD, multiple_of=MAX_LEN)
            figures.append(trainer.step(ids, mask.long(), **_draws(stage, step)))
        return trainer, torch.tensor(figures)

    def _rate(self, step: int) -> float:
        return learning_rate(self.options, step, step / self.options.steps)


def _draws(stage: AutoencoderStage | DiffusionStage, step: int) -> dict[str, Tensor | float]:
    if stage.name == "autoencoder":
        return {}
    _, drawn, _ = stage.batch(step, Part())
    return {"times": drawn.t, "noise": drawn.noise, "coin": 0.0 if drawn.self_condition else 1.0}
