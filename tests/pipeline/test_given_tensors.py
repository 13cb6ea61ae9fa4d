"""Tensors as arguments of the pipeline: accepted ones, and the sentence that refuses each of the others."""

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model
from tests.pipeline.test_length import make_v1

GREEDY = DecodingConfig("greedy", 8)
QUICK = {"num_inference_steps": 2, "decoding": GREEDY}
BROKEN = {
    "int": (lambda x: x.long(), "the dtype is int64; it must be one of float32, bfloat16, float16, float64"),
    "bool": (lambda x: x > 0, "the dtype is bool"),
    "complex": (lambda x: x.to(torch.complex64), "the dtype is complex64"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "the dtype is float8_e4m3fn"),
    "sparse": (lambda x: x.to_sparse(), "the tensor is sparse_coo; give a dense one"),
    "nested": (lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged), "the tensor is nested"),
    "meta": (lambda x: x.to("meta"), "the device meta, which holds no values"),
    "no positions": (lambda x: x[:, :0], r"the shape \(2, 0, "),
    "nan": (lambda x: x * float("nan"), "not finite"),
    "too long": (lambda x: x / x.norm(dim=-1, keepdim=True) * 1e20, "not finite"),
    "too long for float32": (lambda x: x.double() * 1e300, "not finite"),
}


@pytest.fixture
def v2(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


@pytest.fixture
def v1(autoencoder):
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, 32, True)
    return TextDiffusionPipeline(hidden, make_v1(dim_latent=64, max_len=32), RunStatistics((0, 0, 5, 7, 1)))


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("kind", BROKEN)
def test_latents_that_cannot_be_read_are_refused_in_one_sentence(kind, recipe, request):
    pipe = request.getfixturevalue(recipe)
    latents, mask = pipe.encode(["a pub", "the inn near the river"])
    spoil, sentence = BROKEN[kind]
    spoilt, mask = spoil(latents), None if kind == "no positions" else mask
    for call in (
        lambda: pipe.decode(spoilt, GREEDY, mask=mask),
        lambda: pipe.confidences(spoilt, ["a", "b"], mask),
        lambda: pipe(2, start=spoilt, strength=0.5, **QUICK),
    ):
        with pytest.raises(ConfigError, match=sentence) as said:
            call()
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("recipe", ["v1", "v2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_latents_of_every_floating_dtype_are_read(dtype, recipe, request):
    pipe = request.getfixturevalue(recipe)
    latents, mask = pipe.encode(["a pub", "the inn near the river"])
    latents = latents.to(torch.bfloat16)
    wanted = pipe.decode(latents.float(), GREEDY, mask=mask)
    if dtype != torch.float16:  # which has fewer powers of 2
        assert pipe.decode(latents.to(dtype), GREEDY, mask=mask) == wanted
    assert pipe.confidences(latents.to(dtype), ["a", "b"], mask).isfinite().all()
    assert len(pipe(2, start=latents.to(dtype), strength=0.5, **QUICK).texts) == 2


def test_states_that_overflow_are_no_text(v2, monkeypatch):
    latents, _ = v2.encode(["a pub", "an inn"])
    states = v2.autoencoder.decode_states(latents).detach()
    states[1, 0, 0] = float("inf")
    monkeypatch.setattr(LanguageAutoencoder, "decode_states", lambda *_: states)
    for call in (lambda: v2.decode(latents, GREEDY), lambda: v2.confidences(latents, ["a", "b"])):
        with pytest.raises(ConfigError, match="latents of 1 of 2 samples are not finite"):
            call()


def test_what_a_mask_leaves_out_may_be_anything(v1):
    latents, mask = v1.encode(["a pub", "the inn near the river"])
    wanted = v1.decode(latents, GREEDY, mask=mask)
    assert v1.decode(latents.masked_fill(~mask[..., None], 0.0), GREEDY, mask=mask) == wanted
    v1.autoencoder.check_latents(latents.masked_fill(~mask[..., None], float("nan")), mask)
    for spoilt, sentence in (
        (mask.to_sparse(), "mask: the tensor is sparse"),
        (mask.to("meta"), "mask: .*meta"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            v1.decode(latents, GREEDY, mask=spoilt)


def test_numbers_without_values_are_none(v1):
    for name in ("sample_ids", "lengths"):
        for spoilt in (torch.tensor([3, 4], device="meta"), torch.tensor([3, 4]).to_sparse()):
            with pytest.raises(ConfigError, match=f"{name} is tensor.*; give 2 of them"):
                v1(2, **{name: spoilt}, **QUICK)
    with pytest.raises(ConfigError, match=r"seed is tensor\(.*; it must be a whole number"):
        v1(2, seed=torch.tensor(3, device="meta"), **QUICK)


@pytest.mark.parametrize(
    ("steer", "sentence"),
    [
        (
            lambda x: None,
            r"steer gave None; it must give latents of the shape \(2, 6, 8\), in floating point",
        ),
        (lambda x: x.numpy(), r"steer gave array.*; it must give latents"),
        (lambda x: x[:1], r"steer gave a tensor \(1, 6, 8\) on cpu; it must give latents"),
        (lambda x: x.sum(), r"steer gave a tensor \(\) on cpu; it must give latents"),
        (lambda x: x.long(), "What steer gave: the dtype is int64"),
        (lambda x: x.to_sparse(), "What steer gave: the tensor is sparse_coo"),
        (lambda x: x.to("meta"), "What steer gave: the tensor is on the device meta"),
        (lambda x: x * float("nan"), "not finite"),
    ],
)
@pytest.mark.parametrize("sampler", ["ddpm", "unipc"])
def test_steering_gives_latents_or_one_sentence(v2, steer, sentence, sampler):
    with pytest.raises(ConfigError, match=sentence):
        v2(2, steer=steer, sampler=sampler, **QUICK)


def test_steering_in_another_precision_is_steering(v2):
    wanted = v2(2, steer=lambda x: x, **QUICK).texts
    assert v2(2, steer=lambda x: x.double(), **QUICK).texts == wanted
