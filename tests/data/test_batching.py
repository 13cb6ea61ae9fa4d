"""Batches: every example once, an order that depends on seed and epoch, little padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.data import collate, shuffled_batches
from ld4lg_fast.errors import ConfigError, DataError

KINDS = ("bucketed", "shuffled")


def make(kind, num_examples, batch_size, **options):
    lengths = np.random.default_rng(num_examples).integers(3, 60, num_examples)
    return shuffled_batches(
        num_examples, batch_size, **options, lengths=lengths if kind == "bucketed" else None
    )


epochs = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "num_examples": st.integers(8, 900),
        "batch_size": st.sampled_from([2, 4, 6, 8]),
        "seed": st.integers(0, 5),
        "epoch": st.integers(0, 5),
    }
)


@settings(deadline=None)
@given(epochs)
def test_every_example_occurs_at_most_once(options):
    batches, size = make(**options), options["batch_size"]
    seen = [index for batch in batches for index in batch]
    assert len(batches) == options["num_examples"] // size and {len(batch) for batch in batches} == {size}
    assert len(set(seen)) == len(seen) and set(seen) <= set(range(options["num_examples"]))


@settings(deadline=None)
@given(epochs)
def test_batches_are_those_of_one_sorted_permutation(options):
    """As in earlier versions: the same seed gives the same training."""
    size, rng = options["batch_size"], np.random.default_rng((options["seed"], options["epoch"]))
    lengths = np.random.default_rng(options["num_examples"]).integers(3, 60, options["num_examples"])
    order = rng.permutation(options["num_examples"])
    order = order[: len(order) - len(order) % size]
    if options["kind"] == "bucketed":
        pool = np.arange(len(order)) // (50 * size)
        order = order[np.lexsort((lengths[order], pool))]
        order = rng.permutation(order.reshape(-1, size))
    wanted = order.reshape(-1, size).tolist()
    batches = make(**options)
    assert list(batches) == wanted and batches[-1] == wanted[-1] and type(batches[0][0]) is int


@pytest.mark.parametrize("kind", KINDS)
def test_order_depends_on_seed_and_epoch_only(kind):
    base = make(kind, 80, 8, seed=1, epoch=2)
    assert base == make(kind, 80, 8, seed=1, epoch=2)
    assert base != make(kind, 80, 8, seed=1, epoch=3)
    assert base != make(kind, 80, 8, seed=2, epoch=2)


@pytest.mark.parametrize("kind", KINDS)
def test_the_examples_left_out_differ_from_epoch_to_epoch(kind):
    left_out = set()
    for epoch in range(30):
        batches = make(kind, 17, 8, epoch=epoch)
        left_out |= set(range(17)) - {index for batch in batches for index in batch}
    assert len(left_out) > 10


def test_buckets_hold_texts_of_similar_length_in_random_order():
    lengths = np.random.default_rng(0).integers(1, 65, 4000)
    bucketed = shuffled_batches(4000, 20, lengths=lengths)
    spread = np.mean([np.ptp(lengths[batch]) for batch in bucketed])
    plain = np.mean([np.ptp(lengths[batch]) for batch in shuffled_batches(4000, 20)])
    assert spread < plain / 10
    means = np.array([lengths[batch].mean() for batch in bucketed])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, "a batch of 0 examples"),
        ({"seed": -1}, ConfigError, "seed -1"),
        ({"epoch": -1}, ConfigError, "epoch -1"),
        ({"batch_size": 31}, DataError, "30 examples do not fill one batch of 31"),
        ({"num_examples": 0}, DataError, "0 examples do not fill one batch of 8"),
    ],
)
def test_impossible_batches_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        shuffled_batches(**({"num_examples": 30, "batch_size": 8} | options))


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
