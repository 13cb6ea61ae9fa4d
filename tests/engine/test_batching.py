"""Batches: every example once, exact resume, ranks that share one global batch, little padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.data import LengthBucketedBatches, ShuffledBatches, collate
from ld4lg_fast.errors import ConfigError, DataError

KINDS = ("bucketed", "shuffled")


def make(kind, num_examples, batch_size, **options):
    if kind == "shuffled":
        return ShuffledBatches(num_examples, batch_size, **options)
    lengths = np.random.default_rng(num_examples).integers(3, 60, num_examples)
    return LengthBucketedBatches(lengths, batch_size, pool_batches=3, **options)


epochs = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "num_examples": st.integers(8, 90),
        "batch_size": st.sampled_from([2, 4, 6, 8]),
        "seed": st.integers(0, 5),
        "epoch": st.integers(0, 5),
        "drop_last": st.booleans(),
    }
)


@settings(deadline=None)
@given(epochs)
def test_every_example_occurs_exactly_once(options):
    batches = list(make(**options))
    seen = [index for batch in batches for index in batch]
    assert len(batches) == len(make(**options)) == make(**options).num_batches
    assert len(set(seen)) == len(seen)
    whole = options["num_examples"]
    if options["drop_last"]:
        whole -= whole % options["batch_size"]
        assert {len(batch) for batch in batches} == {options["batch_size"]}
    assert len(seen) == whole and set(seen) <= set(range(options["num_examples"]))


@settings(deadline=None)
@given(epochs, st.data())
def test_a_resumed_epoch_is_the_tail_of_the_whole_one(options, data):
    whole = list(make(**options))
    start = data.draw(st.integers(0, len(whole)))
    rest = make(**options, start_batch=start)
    assert list(rest) == whole[start:]
    assert len(rest) == len(whole) - start and rest.num_batches == len(whole)


@settings(deadline=None)
@given(epochs)
def test_ranks_deal_out_the_global_batch(options):
    whole = list(make(**options))
    ranks = [list(make(**options, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert sorted(batch) == sorted(index for part in parts for index in part)
        if options["drop_last"]:
            assert len(parts[0]) == len(parts[1])


@pytest.mark.parametrize("kind", KINDS)
def test_order_depends_on_seed_and_epoch_only(kind):
    base = list(make(kind, 80, 8, seed=1, epoch=2))
    assert base == list(make(kind, 80, 8, seed=1, epoch=2))
    assert base != list(make(kind, 80, 8, seed=1, epoch=3))
    assert base != list(make(kind, 80, 8, seed=2, epoch=2))


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_left_out_differ_from_epoch_to_epoch(kind):
    left_out = set()
    for epoch in range(30):
        batches = make(kind, 17, 8, epoch=epoch)
        left_out |= set(range(17)) - {index for batch in batches for index in batch}
    assert len(left_out) > 10


def test_buckets_hold_texts_of_like_length_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 65, 4000)
    bucketed = list(LengthBucketedBatches(lengths, 20, pool_batches=50))
    spread = np.mean([np.ptp(lengths[batch]) for batch in bucketed])
    plain = np.mean([np.ptp(lengths[batch]) for batch in ShuffledBatches(4000, 20)])
    assert spread < plain / 10
    means = np.array([lengths[batch].mean() for batch in bucketed])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "a batch of 0 examples"),
        ({"batch_size": 9, "world_size": 2}, ConfigError, "choose a positive multiple of 2"),
        ({"world_size": 2, "rank": 2}, ConfigError, "rank 2 is not one of 2"),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"start_batch": 4}, ConfigError, "start_batch 4 lies outside an epoch of 3"),
        ({"batch_size": 31}, DataError, "30 examples do not fill one batch of 31"),
    ],
)
def test_impossible_batches_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        ShuffledBatches(30, **({"batch_size": 8} | options))


def test_a_pool_needs_a_batch():
    with pytest.raises(ConfigError, match="pool_batches 0"):
        LengthBucketedBatches([5] * 10, 2, pool_batches=0)


def test_no_example_is_no_epoch_even_when_incomplete_batches_are_kept():
    assert list(ShuffledBatches(1, 8, drop_last=False)) == [[0]]
    with pytest.raises(DataError, match="0 examples"):
        ShuffledBatches(0, 8, drop_last=False)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(5, 99), max_size=20), min_size=1, max_size=8), st.integers(1, 16))
def test_collate_pads_on_the_right(rows, multiple_of):
    input_ids, mask = collate(rows, pad_id=1, multiple_of=multiple_of)
    assert input_ids.dtype == torch.int64 and mask.dtype == torch.bool and input_ids.shape == mask.shape
    assert input_ids.shape[1] % multiple_of == 0
    assert input_ids.shape[1] - max(1, *map(len, rows)) < multiple_of
    for row, ids, keep in zip(rows, input_ids, mask, strict=True):
        assert ids[keep].tolist() == row and keep[: len(row)].all()
        assert (ids[~keep] == 1).all()


def test_collate_does_not_pad_beyond_the_limit():
    assert collate([[5] * 9], 1, multiple_of=8, max_len=12)[0].shape == (1, 12)
    with pytest.raises(DataError, match="13 tokens exceeds the limit of 12"):
        collate([[5] * 13], 1, max_len=12)
    with pytest.raises(DataError, match="at least one text"):
        collate([], 1)
