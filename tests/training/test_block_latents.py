"""Contexts of a batch of blocks, and the examples of the text decoder."""

import numpy as np
import pytest
import torch

from ld4lg_fast.data import TokenizedTexts, shuffled_batches
from ld4lg_fast.training.block_latents import BlockLatents, CutBlocks
from ld4lg_fast.training.block_tokens import BlockTokens
from ld4lg_fast.training.shards import Rows

SIZES = [3, 1, 4, 2]  # blocks of each document; the last one of a document is empty
FIRSTS = np.repeat(np.cumsum([0, *SIZES[:-1]]), SIZES)
CPU = torch.device("cpu")


@pytest.fixture
def blocks():
    """Latents that say which block they are of: 0 … 9, heads from 100, tails from 200."""
    numbers = torch.arange(10.0)[:, None, None].expand(10, 2, 3)
    cut = np.array([0, 1, 6])
    parts = (Rows([numbers[cut] + start]) for start in (100, 200))
    return BlockLatents(Rows([numbers]), FIRSTS, 2, CutBlocks(cut, *parts), most_noise=0.1)


def read(context):
    """Of each row the numbers of the blocks that it sees."""
    numbers = context.latents[:, 0, 0][context.index]
    return [row[len(row) - count :].tolist() for row, count in zip(numbers, context.num_blocks, strict=True)]


def test_each_block_sees_those_before_it_in_its_document(blocks):
    latents, conditions = blocks.batch([0, 1, 2, 3, 7, 9], CPU)
    context = conditions["blocks"]
    assert latents[:, 0, 0].tolist() == [0, 1, 2, 3, 7, 9]
    assert read(context) == [[], [0], [0, 1], [], [5, 6], [8]]
    assert context.begins.tolist() == [True, True, True, True, False, True]
    assert not context.continues.any() and context.noise is None
    assert len(context.latents) < 2 * 6, "a block that stands before several is held once"


def test_the_head_of_a_block_that_is_cut_stands_before_its_tail(blocks):
    latents, conditions = blocks.batch([0, 1, 2, 6], CPU, torch.Generator().manual_seed(0))
    context = conditions["blocks"]
    assert latents[:, 0, 0].tolist() == [200, 201, 2, 206]
    assert read(context) == [[100], [0, 101], [0, 1], [5, 106]]
    assert context.continues.tolist() == [True, True, False, True]
    assert context.begins.tolist() == [True, True, True, False]
    assert context.noise.shape == context.latents.shape and context.noise_share.max() <= 0.1


def test_documents_stay_together_in_a_shuffled_epoch():
    orders = [
        np.concatenate(shuffled_batches(10, 5, seed=1, epoch=epoch, firsts=FIRSTS)) for epoch in range(9)
    ]
    assert len(set(map(tuple, orders))) > 4
    for order in orders:
        assert sorted(order) == list(range(10))
        steps = np.diff(np.argsort(order))
        assert (steps[FIRSTS[1:] == FIRSTS[:-1]] == 1).all()


def test_tokens_of_a_block_and_of_its_parts():
    rows = [[1, 11, 12, 2], [1, 13, 14, 15, 2], [1, 2]]
    flat, offsets = np.concatenate(rows), np.cumsum([0, 4, 5, 2])
    ends = np.zeros(16, dtype=bool)
    tokens = BlockTokens(TokenizedTexts(flat, offsets, 0), np.array([0, 3]), before=1, after=1, ends_sentence=ends)
    assert tokens.preceding(2, 0, 4) == [12, 13, 14, 15] and tokens.preceding(0, 0, 4) == []
    assert tokens.head(1, 1) == [1, 13, 2] and tokens.tail(1, 1) == [1, 14, 15, 2]
    cut, heads, tails = tokens.cut_in_two(1.0, seed=0)
    assert cut.tolist() == [0, 1], "an empty block has no parts"
    for number, block in enumerate(cut):
        head, tail = heads[number], tails[number]
        assert head[1:-1] + tail[1:-1] == rows[block][1:-1] and len(head) > 2 and len(tail) > 2
    assert not len(tokens.cut_in_two(0.0, seed=0)[0])


def test_half_of_the_blocks_that_are_cut_are_cut_between_sentences():
    full_stop, size, count = 3, 20, 400
    row = [4] * size
    row[5] = row[11] = row[-1] = full_stop
    tokens = TokenizedTexts(np.tile(row, count), np.arange(count + 1) * size, 0)
    ends = np.arange(8) == full_stop
    blocks = BlockTokens(tokens, np.array([0, count]), before=0, after=0, ends_sentence=ends)
    _, heads, _ = blocks.cut_in_two(1.0, seed=0)
    sizes = np.bincount(heads.lengths, minlength=size)
    assert sizes[0] == 0 and sizes[1:].all()
    assert 0.5 < (sizes[6] + sizes[12]) / count < 0.7, "half, and two of nineteen places of the others"
    assert min(sizes[6], sizes[12]) > 0.2 * count, "any sentence but the last"


def test_a_block_of_one_sentence_is_cut_anywhere():
    tokens = TokenizedTexts(np.tile([4, 4, 4, 3], 100), np.arange(101) * 4, 0)
    blocks = BlockTokens(tokens, np.array([0, 100]), before=0, after=0, ends_sentence=np.arange(8) == 3)
    _, heads, tails = blocks.cut_in_two(1.0, seed=0)
    assert set(heads.lengths) == {1, 2, 3} and (heads.lengths + tails.lengths == 4).all()
