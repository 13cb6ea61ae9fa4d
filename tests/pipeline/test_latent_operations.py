"""Operations of the pipeline on the latents of given texts."""

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule, sampling_grid
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.infilling import fill_gaps, filled, split_at_gaps
from ld4lg_fast.pipeline.latent_operations import slerp
from tests.conftest import make_model
from tests.engine.test_engine import make_v1

TEXTS = ["the pub near the river is cheap", "a place", "family friendly cafe with good food"]
GREEDY = DecodingConfig("greedy", 12)


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model())


def test_texts_are_encoded_as_in_training_whatever_the_batch(pipe):
    latents, mask = pipe.encode(TEXTS, batch_size=2)
    assert mask is None and latents.shape == (3, 6, 8)
    autoencoder = pipe.autoencoder
    tokens = tokenize_texts(TEXTS, autoencoder.tokenizer, autoencoder.max_len)
    ids, kept = collate(
        [tokens[row] for row in range(3)], autoencoder.tokenizer.pad_token_id, max_len=autoencoder.max_len
    )
    with torch.no_grad():
        torch.testing.assert_close(latents, autoencoder.encode(ids, kept), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="texts is empty"):
        pipe.encode([])


def test_slerp_keeps_to_the_arc():
    first, second = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(first, second, 0.0), first)
    torch.testing.assert_close(slerp(first, second, 1.0), second)
    middle = slerp(first, second, 0.5)
    torch.testing.assert_close(middle.norm(dim=-1), (first.norm(dim=-1) + second.norm(dim=-1)) / 2)
    near, far = (torch.nn.functional.cosine_similarity(middle, end, dim=-1) for end in (first, second))
    torch.testing.assert_close(near, far)
    assert slerp(first, first, 0.3).isfinite().all() and slerp(first, -first, 0.3).isfinite().all()


def test_the_way_from_one_text_to_another(pipe):
    latents, _ = pipe.encode(TEXTS[:2])
    way = pipe.interpolate(*TEXTS[:2], num_texts=5, decoding=GREEDY)
    assert len(way) == 5 and [way[0], way[-1]] == pipe.decode(latents, GREEDY)
    with pytest.raises(ConfigError, match="num_texts is 1"):
        pipe.interpolate(*TEXTS[:2], num_texts=1)


def test_between_pairs_of_texts(pipe):
    latents, _ = pipe.encode(TEXTS)
    way, mask = pipe.between(TEXTS[:2], TEXTS[1:], torch.tensor([0.25, 0.5]))
    assert mask is None
    wanted = [slerp(latents[0], latents[1], 0.25), slerp(latents[1], latents[2], 0.5)]
    torch.testing.assert_close(way, torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_an_analogy(pipe):
    text, was, becomes = TEXTS
    latents, _ = pipe.encode(TEXTS)
    assert (
        pipe.analogy(text, was, becomes, amount=0.0, decoding=GREEDY) == pipe.decode(latents[:1], GREEDY)[0]
    )
    moved = latents[:1] + 0.7 * (latents[2:] - latents[1:2])
    assert pipe.analogy(text, was, becomes, amount=0.7, decoding=GREEDY) == pipe.decode(moved, GREEDY)[0]
    assert pipe.analogy(was, was, becomes, decoding=GREEDY) == pipe.decode(latents[2:], GREEDY)[0]
    assert pipe.analogy(text, was, becomes, decoding=GREEDY) != pipe.decode(latents[:1], GREEDY)[0]


def test_an_analogy_stays_on_the_sphere(tokenizer):
    from tests.conftest import PERCEIVER, randomize

    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    spherical = LanguageAutoencoder.from_scratch(
        tokenizer, lm, PERCEIVER | {"l2_normalize": True}, max_len=32
    )
    pipe = TextDiffusionPipeline(randomize(spherical, std=0.2), make_model())
    seen = []
    pipe.decode = lambda latents, decoding: seen.append(latents) or ["text"]
    assert pipe.analogy(*TEXTS, amount=2.0) == "text"
    torch.testing.assert_close(seen[0].norm(dim=-1), torch.full((1, 6), 8**0.5))


@pytest.mark.parametrize("schedule", [ContinuousSchedule(), DiscreteSchedule("linear")])
def test_a_grid_that_starts_later(schedule):
    grid = sampling_grid(schedule, 4, first=0.6)
    torch.testing.assert_close(grid.times, torch.tensor([0.6, 0.45, 0.3, 0.15, 0.0]), rtol=0, atol=1e-3)
    assert (
        sampling_grid(schedule, 4, first=1.0).alpha_sq.tolist()
        == sampling_grid(schedule, 4).alpha_sq.tolist()
    )


def test_the_less_noise_the_nearer(pipe):
    latents, _ = pipe.encode(TEXTS[:1])
    start = latents.expand(4, -1, -1)
    options = {"quality": "draft", "seed": 3}
    distances = []
    for strength in (0.02, 0.3, 0.9):
        varied = pipe.vary(TEXTS[0], strength=strength, decoding=GREEDY, **options)
        assert len(varied.texts) == 4
        again = pipe.sample(4, start=start, strength=strength, **options).latents
        assert torch.equal(varied.latents, again)
        distances.append((varied.latents - start).norm().item())
    assert distances == sorted(distances) and distances[0] < 0.2 * distances[-1]
    assert len({tuple(row.flatten().tolist()) for row in varied.latents}) == 4, "each has noise of its own"


def test_a_strength_of_one_forgets_the_start():
    model = make_model()
    start = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    options = {"sampler": "ddim", "num_inference_steps": 6}
    free = sample_latents(model, 2, **options)
    torch.testing.assert_close(sample_latents(model, 2, start=start, **options), free, rtol=1e-2, atol=1e-2)


def test_recipe_v1_keeps_the_length_of_the_text(autoencoder):
    model = make_v1(dim_latent=autoencoder.lm.config.hidden_size, max_len=autoencoder.max_len)
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, autoencoder.max_len, True)
    pipe = TextDiffusionPipeline(hidden, model)
    latents, mask = pipe.encode(TEXTS)
    counts = [len(ids) for ids in autoencoder.tokenizer(TEXTS)["input_ids"]]
    assert mask.sum(dim=1).tolist() == counts and not latents[~mask].any()
    varied = pipe.vary(TEXTS[1], 2, strength=0.5, quality="draft", decoding=GREEDY)
    assert varied.mask.sum(dim=1).tolist() == counts[1:2] * 2
    assert len(pipe.interpolate(TEXTS[0], TEXTS[1], 3, GREEDY)) == 3
    with pytest.raises(ConfigError, match="analogy needs latents of one size"):
        pipe.analogy(*TEXTS)


@pytest.mark.parametrize("strength", [0.0, 1.5, -1.0])
def test_a_strength_out_of_range_is_refused(pipe, strength):
    with pytest.raises(
        ConfigError, match=f"strength is {strength}; it must be a finite number above 0 and at most 1"
    ):
        pipe.vary(TEXTS[0], strength=strength)


def test_starts_and_lengths_that_do_not_fit_are_refused(pipe):
    with pytest.raises(ConfigError, match=r"start has the shape \(2, 5, 8\); it must be \(2, 6, 8\)"):
        pipe.sample(2, start=torch.zeros(2, 5, 8))
    with pytest.raises(ConfigError, match="lengths were given"):
        pipe.sample(2, lengths=torch.tensor([1, 2]))


def test_confidence_is_the_decoders_own_likelihood(pipe):
    latents, _ = pipe.encode(TEXTS)
    got = pipe.confidences(latents, TEXTS, batch_size=2)
    for text, row, score in zip(TEXTS, latents, got, strict=True):
        ids = torch.tensor([pipe.autoencoder.tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = pipe.autoencoder.decode_states(row[None])
            loss = pipe.autoencoder.lm(encoder_outputs=(states,), labels=ids).loss
        torch.testing.assert_close(score, -loss, rtol=1e-4, atol=1e-4)
    too_long = ["a text that is cut to what the model handles" * 9]
    assert pipe.confidences(latents[:1], too_long).isfinite().all()


def test_the_best_of_several_tries(pipe):
    options = {"quality": "draft", "decoding": GREEDY, "seed": 2}
    best, every = pipe(3, best_of=4, **options), pipe(12, **options)
    scores = pipe.confidences(every.latents, every.texts)
    assert best.rows.tolist() == sorted(scores.argsort(descending=True)[:3].tolist())
    assert best.texts == [every.texts[row] for row in best.rows.tolist()]
    assert torch.equal(best.latents, every.latents[best.rows])
    with pytest.raises(ConfigError, match="best_of is 0"):
        pipe(3, best_of=0)


GAPPED = "the pub near the ___ is cheap"


def test_a_gap_is_filled_and_all_other_words_stay(pipe):
    options = {"strength": 0.6, "best_of": 3, "max_tokens": 4, "quality": "draft", "seed": 1}
    found = pipe.infill(GAPPED, 4, **options)
    assert 1 <= len(found.texts) <= 4 and len(set(found.texts)) == len(found.texts)
    assert found.prompts == [GAPPED] * len(found.texts)
    for text in found.texts:
        assert text.startswith("the pub near the ") and text.endswith(" is cheap")
    start = pipe.encode(["the pub near the is cheap"])[0].expand(12, -1, -1)
    every = pipe.sample(12, start=start, strength=0.6, quality="draft", seed=1)
    assert torch.equal(found.latents, every.latents[found.rows])
    kept = ["the pub near the ", " is cheap"]
    words, scores = fill_gaps(pipe.autoencoder, found.latents, kept, 4)
    assert found.texts == [f"the pub near the {word} is cheap" for (word,) in words]
    assert scores.tolist() == sorted(scores.tolist(), reverse=True), "the surest come first"


@pytest.mark.parametrize("text", [GAPPED, "___ is a cheap pub", "the pub is ___", "a ___, near the river"])
def test_the_filling_is_the_most_probable_of_those_tried(pipe, text):
    latents, _ = pipe.encode(TEXTS)
    before, after = kept = split_at_gaps(text, "___")
    words, scores = fill_gaps(pipe.autoencoder, latents, kept, 3, batch_size=2)
    tokenizer, lm = pipe.autoencoder.tokenizer, pipe.autoencoder.lm
    for row, ((word,), score) in enumerate(zip(words, scores.tolist(), strict=True)):
        states = pipe.autoencoder.decode_states(latents[row : row + 1])
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before.rstrip(), after)]
        said, tried = [lm.config.decoder_start_token_id, tokenizer.bos_token_id, *parts[0]], {}
        for length in (1, 2, 3):
            with torch.no_grad():
                logits = lm(encoder_outputs=(states,), decoder_input_ids=torch.tensor([said])).logits[0, -1]
                logits[tokenizer.all_special_ids] = -torch.inf
                said.append(logits.argmax().item())
                labels = torch.tensor([[*said[1:], *parts[1], tokenizer.eos_token_id]])
                tried[tokenizer.decode(said[-length:]).strip()] = -lm(
                    encoder_outputs=(states,), labels=labels
                ).loss
        assert word == max(tried, key=tried.get)
        assert score == pytest.approx(tried[word].item(), abs=1e-3)


SEVERAL = ["The ___ is a cheap ___ pub.", "___, near the river", "it is ___ and ___ and ___ too"]


def test_several_gaps_of_several_texts_are_filled_at_once(pipe):
    options = {"best_of": 2, "max_tokens": 3, "quality": "draft", "seed": 4}
    found = pipe.infill(SEVERAL, 2, **options)
    for text, gapped in zip(found.texts, found.prompts, strict=True):
        place = 0
        for part in gapped.split("___"):
            assert text.startswith(part, place) or part in text[place:]
            place = text.index(part, place) + len(part)
        assert place == len(text), "every kept word stands where it stood"
    one_by_one = [text for gapped in SEVERAL for text in pipe.infill(gapped, 2, **options).texts]
    assert found.texts == one_by_one, "what becomes of a text does not depend on the others"
    assert list(dict.fromkeys(found.prompts)) == SEVERAL


def test_the_gaps_of_a_text_are_filled_from_left_to_right(pipe):
    latents, _ = pipe.encode(TEXTS)
    kept = split_at_gaps(SEVERAL[0], "___")
    words, _ = fill_gaps(pipe.autoencoder, latents, kept, 3)
    again, _ = fill_gaps(pipe.autoencoder, latents, kept, 3, batch_size=1)
    assert words == again and all(len(row) == 2 for row in words)
    # The second gap is filled as the only one of a text in which the first is filled already.
    for row, (first, second) in enumerate(words):
        rest = [filled(kept[:2], [first]), kept[2]]
        assert fill_gaps(pipe.autoencoder, latents[row : row + 1], rest, 3)[0] == [[second]]


def test_gaps_that_cannot_be_filled_are_refused(pipe, autoencoder):
    for text, trouble in (
        ("no gap", "has no gap '___'; it must have at least one"),
        (" ___ ___", "is nothing but a gap"),
        (["a ___", "none"], "'none' has no gap"),
        ([], "text is empty"),
        ("word " * 40 + "___", "The kept words are .* tokens; with the gap this model handles 30"),
    ):
        with pytest.raises(ConfigError, match=trouble):
            pipe.infill(text, quality="draft")
    assert pipe.infill("a <gap> place", 1, gap="<gap>", quality="draft").texts[0].startswith("a ")
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        pipe.infill(GAPPED, max_tokens=0)
    hidden = LanguageAutoencoder(autoencoder.lm, autoencoder.tokenizer, None, autoencoder.max_len, True)
    model = make_v1(dim_latent=autoencoder.lm.config.hidden_size, max_len=autoencoder.max_len)
    with pytest.raises(ConfigError, match="infill needs latents of one size"):
        TextDiffusionPipeline(hidden, model).infill(GAPPED)
