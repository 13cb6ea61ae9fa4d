"""The noise: known answers, normal distribution, independence of the batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.philox_normal.reference import philox4x32


def philox_words(counter: int, key: int) -> list[int]:
    words = philox4x32([torch.tensor([counter])] * 4, [key, key])
    return [int(word) for word in words]


def test_philox_gives_the_known_answers():
    # kat_vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds.
    assert philox_words(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox_words(0xFFFFFFFF, 0xFFFFFFFF) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    digits_of_pi = [torch.tensor([word]) for word in (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)]
    words = philox4x32(digits_of_pi, [0xA4093822, 0x299F31D0])
    assert [int(word) for word in words] == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("name", ["reference", "auto"])
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**64 - 1),
    stream=st.integers(0, 2**32 - 1),
    ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5),
    size=st.integers(1, 23),
)
def test_a_sample_draws_the_same_noise_in_any_batch(name, seed, stream, ids, size):
    with backend.use_backend(name):
        together = ops.philox_normal(seed, torch.tensor(ids), stream, (size,))
        alone = torch.cat([ops.philox_normal(seed, torch.tensor([i]), stream, (size,)) for i in ids])
    torch.testing.assert_close(together, alone, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["reference", "auto"])
def test_philox_normal_is_normal_and_its_streams_differ(name):
    with backend.use_backend(name):
        first = ops.philox_normal(1, torch.arange(64), 0, (1024,))
        others = [
            ops.philox_normal(2, torch.arange(64), 0, (1024,)),
            ops.philox_normal(1, torch.arange(64), 1, (1024,)),
            ops.philox_normal(1, torch.arange(64) + 64, 0, (1024,)),
        ]
    count = first.numel()
    moments = [(first**power).mean().item() for power in (1, 2, 3, 4)]
    deviations = [1, 2**0.5, 15**0.5, 96**0.5]
    for moment, want, deviation in zip(moments, [0, 1, 0, 3], deviations, strict=True):
        assert abs(moment - want) < 4 * deviation / count**0.5
    pairs = [(first, other) for other in others] + [(first[:, 0::2], first[:, 1::2])]
    for a, b in pairs:
        assert abs((a * b).mean().item()) < 4 / a.numel() ** 0.5


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"stream": 2**32}, "stream is"),
        ({"sample_ids": torch.zeros(2, 2, dtype=torch.int64)}, r"of shape \(2, 2\); it needs one axis"),
        ({"sample_ids": torch.zeros(2)}, "torch.float32 of shape"),
    ],
)
def test_philox_arguments_out_of_range_are_named(change, sentence):
    arguments = {"seed": 0, "sample_ids": torch.arange(2), "stream": 0, "shape": (2,)}
    with pytest.raises(ValueError, match=sentence):
        ops.philox_normal(**(arguments | change))
