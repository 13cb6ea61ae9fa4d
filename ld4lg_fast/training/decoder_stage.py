"""Optional third stage: finetunes the decoder on latents from the trained denoiser.

Sampled latents differ slightly from encoded ones, and a decoder that was trained on encoded texts only reproduces their
errors. This stage trains it to reconstruct texts from latents that were noised and denoised by the trained denoiser.
The encoder stays frozen, so that the denoiser's latent space does not change.
Letters: B texts or blocks, N latents, d latent width.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION, Draws
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.data import TextDataset, TokenizedTexts
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.autoencoder_model import tokenize
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage, finish_autoencoder, write_statistics
from ld4lg_fast.training.block_latents import BlockLatents
from ld4lg_fast.training.block_stages import (
    BlockAutoencoderStage,
    block_tokens,
    dataset_of_blocks,
    latents_of_blocks,
    not_blank,
)
from ld4lg_fast.training.block_tokens import BlockTokens, TokensCutInTwo
from ld4lg_fast.training.latent_cache import cached_latents, uncached_latents
from ld4lg_fast.training.loop import TrainingLoop
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.train_section import TrainOptions

NAME = "decoder"
STRENGTHS = 0.2, 0.6  # range of times that latents are noised to, sampled once per batch
STEPS = 5  # of denoising
UNCHANGED = 0.25  # probability that a text's latents are left unchanged


class RoundTrip:
    """Augments latents by noising and denoising them; see `Augmentation`.

    Args:
        conditions: classes, sources or blocks before the texts, as arguments of `TextDiffusionPipeline.sample`.
    """

    def __init__(self, pipe: TextDiffusionPipeline, conditions: Mapping) -> None:
        self.pipe, self.conditions = pipe, conditions

    def corrupt_tokens(self, ids: Tensor, *_: object) -> Tensor:
        """Returns token ids (B, T) unchanged."""
        return ids

    def augment_latents(self, latents: Tensor, draws: Draws) -> Tensor:
        """Latents (B, N, d) for the decoder."""
        low, high = STRENGTHS
        strength = low + (high - low) * torch.rand((), generator=draws.generator).item()
        seed = int(torch.randint(2**31, (), generator=draws.generator))
        kept = draws(torch.rand, latents, 1, 1) < UNCHANGED
        with torch.autocast(latents.device.type, enabled=False):  # packed weights take inputs of one dtype
            back = self.pipe.sample(
                len(latents),
                start=latents.float(),
                strength=strength,
                num_inference_steps=STEPS,
                sampler="unipc",
                guidance_scale=1.0,
                cuda_graph=False,  # capturing takes longer than these few steps
                seed=seed,
                sample_ids=[draws.rank + draws.world_size * row for row in range(len(latents))],
                **self.conditions,
            ).latents
        return torch.where(kept, latents, back.to(latents))


def pipeline_to_finetune(
    autoencoder: LanguageAutoencoder, model: LatentDiffusion, device: torch.device
) -> TextDiffusionPipeline:
    """Both on the device; what turns latents into text can be trained, all else is frozen."""
    autoencoder.requires_grad_(False)
    if autoencoder.perceiver is not None:
        autoencoder.perceiver.decoder.requires_grad_(True)
    if (
        not autoencoder.freeze_lm and autoencoder.lm.config.is_encoder_decoder
    ):  # others encode with all weights
        autoencoder.language_model.decoder.requires_grad_(True)
        autoencoder.lm.get_input_embeddings().requires_grad_(False)  # shared with the encoder
    return TextDiffusionPipeline(autoencoder.to(device), model.to(device).requires_grad_(False))


class DecoderStage(AutoencoderStage):
    """Reconstruction from latents after a `RoundTrip`; see `loop.Stage`."""

    name = NAME

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        model: LatentDiffusion,
        tokens: TokenizedTexts,
        validation: TokenizedTexts,
        session: Session,
        dataset: TextDataset,
    ) -> None:
        super().__init__(autoencoder, tokens, validation, session)
        self.pipe = pipeline_to_finetune(autoencoder, model, session.device)
        self.dataset = dataset

    def augmentation_of(self, rows: Sequence[int], training: bool) -> RoundTrip:
        known = self.dataset.train if training else self.dataset.validation
        conditions: dict[str, list] = {}
        if known.labels is not None and self.pipe.model.denoiser.config.num_classes:
            conditions["class_id"] = [known.labels[row] for row in rows]
        if known.sources is not None and self.pipe.model.is_seq2seq:
            conditions["source"] = [known.sources[row] for row in rows]
        return RoundTrip(self.pipe, conditions)


class BlockDecoderStage(BlockAutoencoderStage):
    """`DecoderStage` on blocks of documents, whose round trip knows the blocks before them.

    Blocks that are cut are those of the denoiser's training, and the text decoder writes their second part.

    Args:
        cut: blocks that are cut in two. latents, validation_latents: of all blocks of the training and the validation
            documents; the former with those that are cut.
    """

    name = NAME

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        model: LatentDiffusion,
        blocks: BlockTokens,
        cut: TokensCutInTwo,
        latents: BlockLatents,
        dataset: TextDataset,
        validation: TokenizedTexts,
        validation_latents: BlockLatents,
        session: Session,
    ) -> None:
        texts = dataset.validation.texts
        super().__init__(
            blocks, model.recipe, autoencoder, not_blank(validation, texts), session, NO_AUGMENTATION
        )
        self.pipe = pipeline_to_finetune(autoencoder, model, session.device)
        self.cut, self.latents, self.validation_latents = cut, latents, validation_latents
        self.validated = [row for row in range(len(texts)) if texts[row]]

    def augmentation_of(self, rows: Sequence[int], training: bool) -> RoundTrip:
        known, blocks = self.latents, rows
        if not training:
            known, blocks = self.validation_latents, [self.validated[row] for row in rows]
        conditions = known.conditions(blocks, self.session.device, cut=training)
        return RoundTrip(self.pipe, {name: each for name, each in conditions.items() if each is not None})

    def _part(self, block: int, _: Sequence[float]) -> tuple[list[int], list[int]]:
        numbers, heads, tails = self.cut
        place = int(np.searchsorted(numbers, block))
        if place == len(numbers) or numbers[place] != block:
            return self.blocks.tokens[block], []
        return tails[place], self.blocks.without_special(heads[place])


def load_source_run(options: TrainOptions) -> tuple[LanguageAutoencoder, LatentDiffusion]:
    """Autoencoder and denoiser of the run ``train.finetune_decoder_from``.

    Raises:
        CheckpointError: they are missing or do not belong together.
        ConfigError: a model of recipe v1, which has no Perceiver to finetune.
    """
    given = RunDirectory(str(options.finetune_decoder_from))
    fingerprint.check(given.path)
    autoencoder, model = LanguageAutoencoder.load(given.autoencoder), LatentDiffusion.load(given.denoiser)
    if autoencoder.perceiver is None:
        raise ConfigError(
            f"train.finetune_decoder_from={given.path} is of recipe v1, which has no Perceiver whose decoder could be "
            "adapted; name a run of recipe v2 or v3."
        )
    return autoencoder, model


def train_decoder(config: Mapping, dataset: TextDataset, session: Session, clock: StageClock) -> None:
    """Runs the stage on the run ``train.finetune_decoder_from``; afterwards the run directory has ``autoencoder/``."""
    autoencoder, model = load_source_run(session.options)
    documents = model.writes_documents
    if documents:
        dataset = dataset_of_blocks(dataset, autoencoder, session)
    tokens, validation = tokenize(autoencoder, dataset, session)
    write_statistics(tokens, dataset, session)
    stage: AutoencoderStage
    if documents:
        autoencoder.to(session.device)
        of_blocks = autoencoder, model, session
        blocks = block_tokens(dataset.train, tokens, autoencoder)
        cut = blocks.cut_in_two(model.recipe["cut_share"], session.seed)
        # This run has no autoencoder yet.
        stored = RunDirectory(str(session.options.finetune_decoder_from)).autoencoder
        encode = partial(cached_latents, stored=stored)
        latents = latents_of_blocks(dataset.train, blocks, *of_blocks, encode, cut)
        unseen = block_tokens(dataset.validation, validation, autoencoder)
        unseen_latents = latents_of_blocks(dataset.validation, unseen, *of_blocks, uncached_latents)
        stage = BlockDecoderStage(
            autoencoder, model, blocks, cut, latents, dataset, validation, unseen_latents, session
        )
    else:
        stage = DecoderStage(autoencoder, model, tokens, validation, session, dataset)
    step = TrainingLoop(stage, session, clock).run().step
    console.print("Of the texts' own latents, without a denoiser between:")
    finish_autoencoder(autoencoder, stage.validation, session, clock, step)
