"""Both stages of recipe ``blocks``, whose texts are blocks of documents.

Letters: B blocks, T tokens, P prefix tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import LatentAugmentation
from ld4lg_fast.data import TextDataset, TextSplit, TokenizedTexts, collate
from ld4lg_fast.data.documents import in_blocks
from ld4lg_fast.data.tokenization import special_tokens_around, token_counts
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.export.runtime.documents import ends_with_sentence
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.block_latents import NONE_CUT, BlockLatents, CutBlocks
from ld4lg_fast.training.block_tokens import BlockTokens, TokensCutInTwo
from ld4lg_fast.training.conditioned_latents import classes_of, to_device
from ld4lg_fast.training.diffusion_stage import NAME, DiffusionStage
from ld4lg_fast.training.distillation import DistillationStage
from ld4lg_fast.training.seeding import StepBatches, step_generator
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_step import Part

EMPTY_BLOCKS = 4  # the autoencoder trains on one of so many empty blocks, of which every document has one
UNSCORED = -100  # torch's label that has no loss
PREFIX_SHARE = 0.9  # of the blocks, before which the text decoder reads the last tokens


def dataset_of_blocks(
    dataset: TextDataset, autoencoder: LanguageAutoencoder, session: Session
) -> TextDataset:
    """A corpus of documents as one of blocks; of the validation documents as many as have the blocks that are validated
    on, but at least one."""
    tokenizer: Any = autoencoder.tokenizer
    room = autoencoder.max_len - tokenizer.num_special_tokens_to_add()
    most = session.options.validation_texts
    some = dataset.validation.select(range(min(most, len(dataset.validation))))
    cut = in_blocks(
        replace(dataset, validation=some, test=TextSplit([])),
        lambda texts: token_counts(texts, tokenizer),
        room,
    )
    offsets: Any = cut.validation.offsets
    kept = max(1, int(np.searchsorted(offsets, most, side="right")) - 1)
    validation = cut.validation.select(range(int(offsets[kept])))
    return replace(cut, validation=replace(validation, offsets=offsets[: kept + 1]))


def block_tokens(split: TextSplit, tokens: Any, autoencoder: LanguageAutoencoder) -> BlockTokens:
    """The tokenised blocks of a split of `dataset_of_blocks`."""
    tokenizer: Any = autoencoder.tokenizer
    around = special_tokens_around(split.texts[0], tokenizer)
    words = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    ends = np.array([ends_with_sentence(word) for word in words])
    return BlockTokens(tokens, split.offsets, *around, ends)  # type: ignore[arg-type]  # blocks have offsets


def latents_of_blocks(
    split: TextSplit,
    blocks: BlockTokens,
    autoencoder: LanguageAutoencoder,
    model: LatentDiffusion,
    session: Session,
    encode: Callable[..., Rows],
    cut: TokensCutInTwo | None = None,
) -> BlockLatents:
    """Latents of the blocks of a split, and of both parts of those that are ``cut``."""
    tokens, recipe, of_cut = blocks.tokens, model.recipe, NONE_CUT
    latents = encode(autoencoder, tokens, session, "latents")
    if cut is not None and len(cut[0]):
        numbers, heads, tails = cut
        of_parts = (
            encode(autoencoder, part, session, name) for name, part in (("heads", heads), ("tails", tails))
        )
        of_cut = CutBlocks(numbers, *of_parts)
    labels = classes_of(split.labels, len(tokens), model)
    return BlockLatents(
        latents, blocks.firsts, recipe["context_blocks"], of_cut, recipe["context_noise"], labels
    )


def not_blank(tokens: TokenizedTexts, texts: Sequence[str]) -> list[list[int]]:
    """The blocks that say something; every autoencoder gives the empty ones back."""
    return [tokens[i] for i in range(len(tokens)) if texts[i]]


class BlockAutoencoderStage(AutoencoderStage):
    """The language autoencoder on blocks and parts of them, whose decoder often reads the last tokens before first."""

    def __init__(
        self,
        blocks: BlockTokens,
        recipe: Mapping,
        autoencoder: LanguageAutoencoder,
        validation: Sequence[list[int]],
        session: Session,
        augmentation: LatentAugmentation,
    ) -> None:
        super().__init__(autoencoder, blocks.tokens, validation, session, augmentation)
        self.blocks, self.recipe, self.firsts = blocks, recipe, blocks.firsts
        lengths = blocks.tokens.lengths
        empty = lengths <= blocks.before + blocks.after
        self.kept = np.flatnonzero(~empty | (np.cumsum(empty) % EMPTY_BLOCKS == 1))
        self.batches = StepBatches(
            len(self.kept), self.options.batch_size, session.seed, lengths=lengths[self.kept]
        )

    def batch(self, step: int, part: Part) -> tuple:
        whole = self.kept[self.batches[step]].tolist()
        generator = step_generator(self.session.seed, self.name, f"{step}/blocks")
        coins = torch.rand(len(whole), 4, generator=generator).numpy()
        every = [self._example(row, coin) for row, coin in zip(whole, coins, strict=True)]
        device, tokenizer = self.session.device, self.module.tokenizer
        texts, read, scored = [], [], []
        for row, prefix in part.of(every):
            given = [*prefix, tokenizer.eos_token_id, *row[: self.blocks.before]] if prefix else []
            texts.append(row)
            read.append(given + row[self.blocks.before :] if prefix else row)
            # The latents are not those of the prefix, so its tokens have no loss.
            scored.append([UNSCORED] * len(given) + read[-1][len(given) :])
        ids, mask = self._collate(texts)
        most = self.module.max_len + self.recipe["prefix_tokens"] + 1
        labels, targets = (collate(rows, UNSCORED, max_len=most)[0] for rows in (read, scored))
        counts = [len(row) - self.blocks.before * bool(prefix) for row, prefix in every]
        weight = part.count * sum(part.of(counts)) / sum(counts)
        noise = step_generator(self.session.seed, self.name, step)
        augmentation = self.augmentation_of(part.of(whole), training=True)
        tensors = to_device(labels, device), to_device(targets, device)
        return weight, (ids, mask, augmentation, noise, part.index, part.count, *tensors)

    def _example(self, block: int, coin: Sequence[float]) -> tuple[list[int], list[int]]:
        """A block or a part of it, and the tokens that the text decoder reads first."""
        row, before = self._part(block, coin)
        count = self.recipe["prefix_tokens"]
        if not count or coin[0] >= PREFIX_SHARE:
            return row, []
        return row, (self.blocks.preceding(block, int(self.firsts[block]), count) + before)[-count:]

    def _part(self, block: int, coin: Sequence[float]) -> tuple[list[int], list[int]]:
        """A block or a part of it, and the tokens of the block before that part."""
        blocks, row = self.blocks, self.blocks.tokens[block]
        size = len(row) - blocks.before - blocks.after
        if coin[1] >= self.recipe["cut_share"] or size <= 1:
            return row, []
        place = blocks.place_to_cut(block, float(coin[2]))
        if coin[3] < 0.5:
            return blocks.head(block, place), []
        return blocks.tail(block, place), blocks.text(block)[:place]


class BlockDiffusionStage(DiffusionStage):
    """Denoising of blocks, each after noised latents of the blocks before it.

    A batch holds whole documents but for its ends, so that most of its blocks stand before others of it.
    """

    training: BlockLatents  # type: ignore[assignment]  # where others have texts
    has_fixed_shapes = False

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        known, session = self.training, self.session
        self.batches = StepBatches(len(known), self.options.batch_size, session.seed, firsts=known.firsts)

    def _batch_of(self, step: int, part: Part, whole: Sequence[int]) -> tuple[Tensor, dict[str, Any]]:
        generator = step_generator(self.session.seed, NAME, f"{step}/blocks")
        coin = torch.rand((), generator=generator)
        latents, conditions = self.training.batch(whole, self.session.device, generator, part)
        if coin.item() < self.context_drop_prob:
            conditions["blocks"] = None
        return latents, conditions


class BlockDistillationStage(BlockDiffusionStage, DistillationStage):
    """`DistillationStage` on blocks."""
