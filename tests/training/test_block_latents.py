"""Contexts of a batch of blocks, and the examples of the text decoder."""

import numpy as np
import pytest
import torch

from ld4lg_fast.data import TokenizedTexts, shuffled_batches
from ld4lg_fast.training.block_latents import BlockLatents, ContextDraws
from ld4lg_fast.training.block_tokens import BlockTokens
from ld4lg_fast.training.shards import Rows

SIZES = [3, 1, 4, 2]  # blocks of each document; the last one of a document is empty
FIRSTS = np.repeat(np.cumsum([0, *SIZES[:-1]]), SIZES)
CPU = torch.device("cpu")


@pytest.fixture
def blocks():
    """Latents that say which block they are of: 0 … 9, heads from 100, tails from 200."""
    numbers = torch.arange(10.0)[:, None, None].expand(10, 2, 3)
    rows = (Rows([numbers + start]) for start in (0, 100, 200))
    return BlockLatents(*rows, firsts=FIRSTS, num_context=2)


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
    draws = ContextDraws(torch.Generator().manual_seed(0), cut_share=1.0, most_noise=0.1)
    latents, conditions = blocks.batch([0, 1, 2, 6], CPU, draws)
    context = conditions["blocks"]
    assert latents[:, 0, 0].tolist() == [200, 201, 2, 206], "an empty block has no parts"
    assert read(context) == [[100], [0, 101], [0, 1], [5, 106]]
    assert context.continues.tolist() == [True, True, False, True]
    assert context.begins.tolist() == [True, True, True, False]
    assert context.noise.shape == context.latents.shape and context.noise_share.max() <= 0.1


def test_documents_stay_together_in_a_shuffled_epoch():
    batches = shuffled_batches(10, 5, seed=1, firsts=FIRSTS)
    order = np.concatenate(batches)
    assert sorted(order) == list(range(10)) and order.tolist() != list(range(10))
    places = np.argsort(order)
    inside = FIRSTS[1:] == FIRSTS[:-1]
    assert (np.diff(places)[inside] == 1).all()
    assert shuffled_batches(10, 5, seed=1, epoch=1, firsts=FIRSTS) != batches


def test_tokens_of_a_block_and_of_its_parts():
    rows = [[1, 11, 12, 2], [1, 13, 14, 15, 2], [1, 2]]
    flat, offsets = np.concatenate(rows), np.cumsum([0, 4, 5, 2])
    tokens = BlockTokens(TokenizedTexts(flat, offsets, 0), np.array([0, 3]), before=1, after=1)
    assert tokens.preceding(2, 0, 4) == [12, 13, 14, 15] and tokens.preceding(0, 0, 4) == []
    assert tokens.head(1, 1) == [1, 13, 2] and tokens.tail(1, 1) == [1, 14, 15, 2]
    heads, tails = tokens.cut_in_two(seed=0)
    assert heads[2] == tails[2] == [1, 2]
    for head, tail, row in zip((heads[0], heads[1]), (tails[0], tails[1]), rows, strict=False):
        assert head[1:-1] + tail[1:-1] == row[1:-1] and len(head) > 2 and len(tail) > 2
