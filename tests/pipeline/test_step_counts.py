"""A seed's texts at other numbers of steps, and the texts of other seeds."""

import pytest

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.evaluation.seq2seq import sacrebleu

pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def shipped():
    return TextDiffusionPipeline.from_pretrained("e2e-small")


@pytest.mark.parametrize(
    ("sampler", "eta", "nearer"),
    [
        ("ddpm", None, 25),
        ("ddim", 1.0, 25),
        ("dpmpp_2m_sde", None, 25),
        ("er_sde", None, 25),
        ("dpmpp_2m", None, 25),  # deterministic ones show the same
        ("unipc", None, 25),
    ],
)
def test_a_seed_has_like_texts_at_25_and_50_steps(shipped, sampler, eta, nearer):
    def texts(seed, steps):
        options = {"sampler": sampler, "eta": eta, "num_inference_steps": steps}
        latents = shipped.sample(24, seed=seed, **options).latents
        return shipped.decode(latents, DecodingConfig("greedy"))

    few = texts(7, 25)
    same, other = sacrebleu(few, texts(7, 50)), sacrebleu(few, texts(8, 50))
    print(f"{sampler}: BLEU {same:.1f} with the same seed, {other:.1f} with another")
    assert same > other + nearer
