"""`LatentDiffusion`: a denoiser with its diffusion process and the statistics of its latents, saved as one.

Letters: B batch, N latent positions, d latent width.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from ld4lg_fast.checkpoints.files import read_json, write_json
from ld4lg_fast.checkpoints.schemas import LatentDiffusionFile, LatentDiffusionFileV1, validated
from ld4lg_fast.checkpoints.tensors import build_and_load, save_weights
from ld4lg_fast.diffusion.adaptive_schedule import TimeWarp
from ld4lg_fast.diffusion.process import GaussianDiffusion, LossOutput, TrainingDraws, add_noise
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.models.context_encoder import BlockContext, BlockStates, ContextEncoder, ContextEncoderConfig
from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
from ld4lg_fast.models.denoiser_base import ConditionArguments
from ld4lg_fast.models.denoiser_v1 import DenoiserConfigV1, DiffusionTransformerV1

ARCHITECTURES = {
    "v1": (DiffusionTransformerV1, DenoiserConfigV1),
    "v2": (DiffusionTransformer, DenoiserConfig),
    "v3": (DiffusionTransformer, DenoiserConfig),
}

AnyDenoiser = DiffusionTransformer | DiffusionTransformerV1


def _check_version(version: object) -> None:
    if version not in ARCHITECTURES:
        raise ConfigError(f"Unknown recipe version {version!r}; choose one of {', '.join(ARCHITECTURES)}.")


def make_diffusion(recipe: Mapping) -> GaussianDiffusion:
    """The process of a recipe.

    Args:
        recipe: ``version`` (``v1``, ``v2`` or ``v3``), ``objective``, ``loss_type``, ``self_condition_prob``,
            ``class_drop_prob``; v1: ``beta_schedule``, ``num_train_timesteps``; v2 and v3: ``schedule``,
            ``schedule_scale``, ``sampling_schedule`` (or None), ``l2_normalized``, and perhaps ``loss_weighting``,
            ``self_condition_noise`` and ``adaptive_schedule``. Further entries are stored with the model:
            ``context_drop_prob`` and ``source_max_len`` of sequence-to-sequence models.

    Raises:
        ConfigError: an unknown version or a missing entry.
    """
    common = ("objective", "loss_type", "self_condition_prob", "class_drop_prob")
    try:
        chosen = {name: recipe[name] for name in common}
        if recipe["version"] == "v1":
            schedule = DiscreteSchedule(recipe["beta_schedule"], recipe["num_train_timesteps"])
            return GaussianDiffusion(**chosen, schedule=schedule)
        _check_version(recipe["version"])
        optional = ("loss_weighting", "self_condition_noise")
        chosen |= {name: recipe[name] for name in optional if name in recipe}
        scale, sampling = recipe["schedule_scale"], recipe["sampling_schedule"]
        return GaussianDiffusion(
            **chosen,
            schedule=ContinuousSchedule(recipe["schedule"], scale),
            sampling_schedule=ContinuousSchedule(sampling, scale) if sampling else None,
            l2_normalized=recipe["l2_normalized"],
        )
    except KeyError as error:
        raise ConfigError(
            f"The recipe has no entry {error}; start from one of the recipe configs."
        ) from error


class LatentDiffusion(nn.Module):
    """Denoiser + `GaussianDiffusion` + latent statistics (buffers ``latent_mean`` (d,), ``latent_scale`` ()).

    ``time_warp`` is that of a recipe with an adaptive schedule, else None.
    """

    latent_mean: Tensor
    latent_scale: Tensor

    def __init__(self, denoiser: AnyDenoiser, recipe: Mapping) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.recipe = dict(recipe)
        self.diffusion = make_diffusion(recipe)
        self.time_warp = TimeWarp() if recipe.get("adaptive_schedule") else None
        if self.time_warp is not None and self.diffusion.discrete:
            raise ConfigError(
                "recipe.adaptive_schedule=true needs continuous times (recipe v2 or v3); leave it out with recipe v1."
            )
        self.context_encoder: ContextEncoder | None = None
        self.deterministic = False  # whether a sample may not depend on the others of its batch
        if num_blocks := recipe.get("context_blocks", 0):
            sizes: Any = denoiser.config
            self.context_encoder = ContextEncoder(
                ContextEncoderConfig(
                    num_blocks,
                    num_latents=sizes.max_len,
                    dim_latent=sizes.dim_latent,
                    dim=sizes.dim_context,
                    depth=recipe["context_layers"],
                )
            )
        self.register_buffer("latent_mean", torch.zeros(denoiser.config.dim_latent))
        self.register_buffer("latent_scale", torch.ones(()))

    @classmethod
    def create(cls, recipe: Mapping, denoiser: Mapping) -> "LatentDiffusion":
        """A new model from a recipe (see `make_diffusion`) and the fields of the denoiser's config.

        Raises:
            ConfigError: an unknown recipe version, or a field that the denoiser does not have.
        """
        version: Any = recipe.get("version")
        _check_version(version)
        architecture, config = ARCHITECTURES[version]
        try:
            return cls(architecture(config(**denoiser)), recipe)
        except TypeError as error:
            raise ConfigError(f"The denoiser's options do not fit recipe {version}: {error}.") from error

    def check_latents_of(self, num_latents: int, dim_latent: int) -> None:
        """Refuses an autoencoder whose latents have another size than those that the denoiser was trained on.

        Raises:
            CheckpointError: naming both sizes.
        """
        trained = self.denoiser.config
        if (num_latents, dim_latent) != (trained.max_len, trained.dim_latent):
            raise CheckpointError(
                f"The autoencoder has {num_latents} latents {dim_latent} wide but the denoiser was trained on "
                f"{trained.max_len}, {trained.dim_latent} wide; they belong to different runs."
            )

    def set_statistics(self, latents: Tensor, mask: Tensor | None = None) -> None:
        """Mean vector and one scalar population std of latents (B, N, d), over real positions only."""
        real = latents.reshape(-1, latents.shape[-1]) if mask is None else latents[mask.bool()]
        mean = real.double().mean(dim=0)
        self.latent_mean.copy_(mean)
        self.latent_scale.copy_((real.double() - mean).square().mean().sqrt())

    @property
    def default_sampler(self) -> str:
        """The sampler that the recipe was published with."""
        return "ddim" if self.diffusion.discrete else "ddpm"

    @property
    def learned_times(self) -> list[float] | None:
        """The model's own times: those of `learn_timesteps`, else of an adaptive schedule; or None."""
        times = self.recipe.get("learned_times")
        if times is None and self.time_warp is not None and self.diffusion.sampling_schedule is None:
            return self.time_warp.sampling_times()
        return times

    @property
    def is_seq2seq(self) -> bool:
        """Whether the denoiser attends to a source text."""
        return bool(getattr(self.denoiser.config, "dim_context", 0)) and self.context_encoder is None

    @property
    def writes_documents(self) -> bool:
        """Whether the denoiser attends to the blocks before, so that prompts are continued."""
        return self.context_encoder is not None

    @property
    def source_max_len(self) -> int:
        """Maximum number of tokens of a source text in training."""
        return self.recipe.get("source_max_len", 64)

    @property
    def divisor(self) -> Tensor:
        # v1 adds the guard to the std, v2 clamps it (golden NOTES 28 and 53).
        return self.latent_scale + 1e-5 if self.diffusion.discrete else self.latent_scale.clamp(min=1e-5)

    def normalize(self, latents: Tensor) -> Tensor:
        return (latents - self.latent_mean) / self.divisor

    def unnormalize(self, latents: Tensor) -> Tensor:
        return latents * self.divisor + self.latent_mean

    def encode_blocks(self, blocks: BlockContext) -> tuple[Tensor, Tensor]:
        """What the denoiser attends to of the blocks before, (B, M, dim_context), and its mask (B, M)."""
        states, mask = self._block_states(blocks)
        return states.rows(), mask

    def _block_states(self, blocks: BlockContext) -> tuple[BlockStates, Tensor]:
        latents = self.normalize(blocks.latents)
        if blocks.noise_share is not None and blocks.noise is not None:
            latents = add_noise(latents, blocks.noise, 1 - blocks.noise_share)
        return self.context_encoder(  # type: ignore[misc]  # a model of recipe blocks has it
            latents, blocks, one_by_one=self.deterministic
        )

    def with_context(
        self, blocks: BlockContext | None = None, **given: Unpack[ConditionArguments]
    ) -> ConditionArguments:
        """The denoiser's conditions, in which the encoded ``blocks`` are the context."""
        if blocks is not None:
            given["context"], given["context_mask"] = self._block_states(blocks)
        return given

    def draw(self, latents: Tensor, generator: torch.Generator) -> TrainingDraws:
        """All randomness of one training step for latents (B, N, d)."""
        return self.diffusion.draw(latents, generator, self.denoiser.config.num_classes > 0)

    def loss(
        self,
        latents: Tensor,
        draws: TrainingDraws,
        *,
        blocks: BlockContext | None = None,
        **given: Unpack[ConditionArguments],
    ) -> LossOutput:
        """Training loss of raw latents (B, N, d), see `GaussianDiffusion.training_loss`.

        ``blocks``: the blocks before, of recipe ``blocks``, in the place of a context; None drops them.
        """
        given = self.with_context(blocks, **given)
        return self.diffusion.training_loss(self.denoiser, self.normalize(latents), draws, **given)

    forward = loss

    def save(self, directory: Path | str) -> None:
        """Writes ``config.json`` and ``model.safetensors``."""
        directory = Path(directory)
        save_weights(self, directory / "model.safetensors")
        write_json(
            directory / "config.json",
            {"format": 1, "recipe": self.recipe, "denoiser": asdict(self.denoiser.config)},
        )

    @classmethod
    def load(cls, directory: Path | str) -> "LatentDiffusion":
        """Reads what `save` wrote, in evaluation mode.

        Raises:
            CheckpointError: the folder is not a denoiser, is damaged, or is of another format.
        """
        path = Path(directory) / "config.json"
        content = read_json(path, "a saved denoiser")
        recipe = content.get("recipe")
        discrete = isinstance(recipe, dict) and recipe.get("version") == "v1"
        file: LatentDiffusionFile | LatentDiffusionFileV1
        file = (
            validated(LatentDiffusionFileV1, content, path)
            if discrete
            else validated(LatentDiffusionFile, content, path)
        )
        recipe = file.recipe.model_dump(exclude_unset=True)
        denoiser = file.denoiser.model_dump()
        weights = Path(directory) / "model.safetensors"
        return build_and_load(lambda: cls.create(recipe, denoiser), path, weights).eval()
