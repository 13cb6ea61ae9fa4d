"""The published pipeline with a trained model's weights: the reference's plain modules, loop and ``generate``.

A denoiser of recipe v3 is the published one but for two things that the published code has no counterpart of. Both are
added to the reference's modules in plain eager PyTorch:

* QK normalization (Henry et al. 2020): an RMS norm of each head behind ``to_q`` and ``to_k``, by the reference's own
  `HeadRMSNorm` of the Perceiver;
* the noise schedule ``tan-D`` (Shabalin et al. 2024), as one more curve of the reference's table.

The sampling loop, its DDPM step, self-conditioning, the Perceiver and ``generate`` are the published ones, unchanged.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.reference import v2_schedules
from benchmarks.reference.layers import Attention
from benchmarks.reference.pipeline import TextPipeline
from benchmarks.reference.v2_autoencoder import HeadRMSNorm, PerceiverAutoencoder
from benchmarks.reference.v2_denoiser import DiffusionTransformer
from benchmarks.reference.v2_diffusion import GaussianDiffusion
from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.models import parameter_names

DIM_HEAD = 64


class NormalizedHeads(HeadRMSNorm):
    """`HeadRMSNorm` of heads that lie side by side: (B, N, H·h) -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unflatten(-1, (-1, self.gamma.shape[0]))).flatten(-2)


def published_pipeline(pipe: TextDiffusionPipeline, num_steps: int = 250) -> TextPipeline:
    """The published text sampling with the weights of ``pipe``, a model of recipe v2 or v3 without conditions.

    Latents and beam-searched tokens are those of ``pipe`` under quality ``paper`` from the same noise, up to rounding.

    Raises:
        ValueError: a model that the reference has no modules for.
    """
    recipe, config = pipe.model.recipe, pipe.model.denoiser.config
    if recipe["version"] == "v1" or config.num_classes or config.dim_context:
        raise ValueError(
            "Only models of recipe v2 or v3 without classes and sources are run; name another run."
        )
    if config.unet_skips and config.num_dense_connections:
        raise ValueError("The published denoiser has no U-ViT skips; name a run without dense connections.")
    schedule = recipe["sampling_schedule"] or recipe["schedule"]
    if schedule.startswith("tan-"):
        v2_schedules.SCHEDULES[schedule] = tan_schedule(float(schedule.removeprefix("tan-")))
    diffusion = GaussianDiffusion(
        _denoiser(pipe.model.denoiser),
        max_seq_len=config.max_len,
        sampling_timesteps=num_steps,
        objective=recipe["objective"],
        train_schedule=schedule,
        scale=recipe["schedule_scale"],
        l2_normalize=recipe["l2_normalized"],
    )
    diffusion.latent_mean.copy_(pipe.model.latent_mean)
    diffusion.latent_scale.copy_(pipe.model.latent_scale)
    autoencoder = pipe.autoencoder
    return TextPipeline(autoencoder.lm, autoencoder.tokenizer, _perceiver(autoencoder.perceiver), diffusion)


def tan_schedule(d: float) -> Callable[[Tensor], Tensor]:
    """Squared signal level of tan-d: 1 / (1 + d²·tan²(πt/2))."""

    def curve(t: Tensor) -> Tensor:
        angle = t * torch.pi / 2
        return angle.cos() ** 2 / (angle.cos() ** 2 + d**2 * angle.sin() ** 2)

    return curve


def _denoiser(ours: nn.Module) -> DiffusionTransformer:
    config = ours.config
    names = parameter_names.denoiser_names(config)
    network = DiffusionTransformer(
        tx_dim=config.dim,
        tx_depth=config.depth,
        heads=config.heads or config.dim // DIM_HEAD,
        latent_dim=config.dim_latent,
        max_seq_len=config.max_len,
        self_condition=config.self_condition,
        dropout=config.dropout,
        scale_shift=config.scale_shift,
        num_dense_connections=config.num_dense_connections,
    )
    if config.qk_norm:
        attentions = [name for name, module in network.named_modules() if isinstance(module, Attention)]
        for block, attention in enumerate(attentions):
            for part, number in (("to_q", 0), ("to_k", 1)):
                linear = network.get_submodule(f"{attention}.{part}")
                normed = nn.Sequential(linear, NormalizedHeads(DIM_HEAD))
                setattr(network.get_submodule(attention), part, normed)
                names[f"{attention}.{part}.0.weight"] = names.pop(f"{attention}.{part}.weight")
                names[f"{attention}.{part}.1.gamma"] = f"blocks.{block}.attn.norms.{number}.gamma"
    network.load_state_dict(parameter_names.to_published(ours.state_dict(), names))
    return network


def _perceiver(ours: nn.Module) -> PerceiverAutoencoder:
    config = ours.config
    autoencoder = PerceiverAutoencoder(
        dim_lm=config.dim_lm,
        dim_ae=config.dim_latent,
        depth=config.depth,
        num_encoder_latents=config.num_latents,
        num_decoder_latents=config.num_decoder_latents,
        max_seq_len=config.max_len,
        ff_mult=config.ff_mult,
        transformer_decoder=config.decoder == "transformer",
        l2_normalize_latents=config.l2_normalize,
    )
    names = parameter_names.perceiver_names(config)
    autoencoder.load_state_dict(parameter_names.to_published(ours.state_dict(), names))
    return autoencoder
