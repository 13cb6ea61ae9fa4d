"""Prompts continued block by block, by models with random weights."""

import logging
from dataclasses import replace

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion import samplers
from ld4lg_fast.diffusion.samplers import guided_denoiser
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.step_table import START_STREAM
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.documents import DocumentWriter
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.pipeline import documents
from tests.conftest import PERCEIVER, make_model, randomize

BLOCKS = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.25,
    "prefix_tokens": 4,
}
GREEDY = DecodingConfig("greedy", max_length=12, min_length=0, no_repeat_ngram_size=2)
OPTIONS = {"sampler": "ddim", "num_inference_steps": 3, "seed": 5, "decoding": GREEDY}
PROMPTS = ["The Old Mill is a pub. It serves", "", "A cheap place", " \n\t"]


def make_writer(**sizes):
    model = make_model(recipe=BLOCKS, dim_context=64, **sizes)
    randomize(model.context_encoder, seed=3)
    return model


@pytest.fixture
def pipe(tokenizer):
    torch.manual_seed(0)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    autoencoder = LanguageAutoencoder.from_scratch(tokenizer, lm, PERCEIVER, max_len=32, max_positions=40)
    return TextDiffusionPipeline(randomize(autoencoder, std=0.2), make_writer())


def context_of(batch, seed=1):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2 * batch, 6, 8, generator=generator)
    index = torch.arange(2 * batch).view(batch, 2)
    counts = torch.arange(batch) % 3
    return BlockContext(latents, index, counts, counts < 2, torch.arange(batch) % 2 == 0)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_context_of_all_samples_is_that_of_each_batch(guidance_scale):
    model = make_writer()
    states, mask = model.encode_blocks(context_of(4))
    options = {"sampler": "ddim", "num_inference_steps": 4, "guidance_scale": guidance_scale}
    once = sample_latents(model, 4, context=states, context_mask=mask, seed=2, **options)
    again = sample_latents(
        model,
        4,
        context=lambda rows: model.encode_blocks(context_of(4).rows(rows)),
        seed=2,
        **options,
    )
    torch.testing.assert_close(once, again)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_a_context_that_is_encoded_once_is_one_that_is_encoded_in_every_step(guidance_scale):
    """The sampling run keeps the keys and values of the blocks; the plain loop computes them in each evaluation."""
    model, seed = make_writer(), 2
    states, mask = model.encode_blocks(context_of(3))
    options = {"sampler": "ddim", "num_inference_steps": 4, "guidance_scale": guidance_scale}
    cached = sample_latents(model, 3, context=states, context_mask=mask, seed=seed, **options)
    grid = sampling_grid(model.diffusion.schedule, 4)
    shape = (model.denoiser.config.max_len, model.denoiser.config.dim_latent)
    start = ops.philox_normal(seed, torch.arange(3), START_STREAM, shape)
    with torch.no_grad():
        denoise = guided_denoiser(model, grid, guidance_scale, context=states, context_mask=mask)
        plain = samplers.sample(samplers.ddim, denoise, start, grid)
    torch.testing.assert_close(cached, model.unnormalize(plain), rtol=1e-4, atol=1e-4)


def test_blocks_that_are_not_there_are_not_seen():
    model, context = make_writer(), context_of(3)
    states, mask = model.encode_blocks(context)
    unseen = torch.arange(2) < 2 - context.num_blocks[:, None]
    others = context.latents + 9 * unseen.view(-1, 1, 1)
    changed, same = model.encode_blocks(replace(context, latents=others))
    assert torch.equal(mask, same) and mask.sum(1).tolist() == [1, 7, 13]
    torch.testing.assert_close(changed[mask], states[mask])


def test_texts_depend_on_prompt_seed_and_id_alone(pipe):
    every = pipe(prompt=PROMPTS, max_new_tokens=30, **OPTIONS)
    assert len(set(every.texts)) > 1 and every.prompts == PROMPTS and len(every.latents) == 4
    one_by_one = [
        pipe(prompt=prompt, max_new_tokens=30, sample_ids=[number], **OPTIONS).texts[0]
        for number, prompt in enumerate(PROMPTS)
    ]
    assert every.texts == one_by_one
    assert pipe(prompt=PROMPTS, max_new_tokens=30, batch_size=3, **OPTIONS).texts == every.texts
    assert pipe(prompt=PROMPTS, max_new_tokens=30, **OPTIONS | {"seed": 6}).texts != every.texts
    blank = pipe(4, prompt=" ", max_new_tokens=30, **OPTIONS)
    assert blank.texts == pipe(4, max_new_tokens=30, **OPTIONS).texts  # each begins a document


def test_a_text_may_end_whatever_its_shortest_decoding(pipe, monkeypatch):
    """An empty block ends a text, so the decoding's shortest length is not that of a block."""
    seen = []

    def generate(self, latents, decoding, **options):
        seen.append(decoding.min_length)
        return [[]] * len(latents)

    monkeypatch.setattr(LanguageAutoencoder, "generate", generate)
    assert pipe(prompt=["A", "B"], **OPTIONS | {"decoding": replace(GREEDY, min_length=5)}).texts == ["", ""]
    assert set(seen) == {0}


def test_blocks_are_streamed_as_they_are_finished(pipe):
    texts = [""] * 4
    batches = list(pipe.stream(prompt=PROMPTS, max_new_tokens=30, **OPTIONS))
    for batch in batches:
        for row, text in zip(batch.rows.tolist(), batch.texts, strict=True):
            texts[row] += text
    assert len(batches) > 1 and texts == pipe(prompt=PROMPTS, max_new_tokens=30, **OPTIONS).texts


@pytest.mark.parametrize("most", [1, 5, 23])
def test_no_more_tokens_than_asked_for(pipe, monkeypatch, most):
    seen = []
    extend = DocumentWriter.extend

    def recorded(self, document, ids, limit):
        seen.append(document)
        return extend(self, document, ids, limit)

    monkeypatch.setattr(DocumentWriter, "extend", recorded)
    pipe(prompt=PROMPTS, max_new_tokens=most, **OPTIONS)
    assert seen and max(document.num_tokens for document in seen) <= most


def test_an_empty_block_ends_a_document(pipe, monkeypatch):
    written = iter([[7, 8, 9], [], []])
    monkeypatch.setattr(
        pipe.autoencoder, "generate", lambda latents, *_, **__: [next(written) for _ in range(len(latents))]
    )
    output = pipe(2, prompt="A pub.", **OPTIONS)
    assert output.texts == [pipe.autoencoder.tokenizer.decode([7, 8, 9]), ""]


def test_the_decoder_reads_the_last_tokens_before_a_block(pipe):
    writer = documents.BlockCoder(pipe.autoencoder, 4).writer
    text = "The Old Mill is a cheap pub near the river."
    assert writer.prefix(writer.begin(text)) == writer.encode([text])[0][-4:]
    assert writer.prefix(writer.begin("")) == []
    short = writer.begin("A")
    assert writer.prefix(short) == writer.encode(["A"])[0] and short.continues


def test_of_a_long_prompt_the_end_is_read_and_that_is_said_once(pipe, caplog):
    documents._said.clear()
    monologue = "The pub is cheap. It is near the river. " * 12
    with caplog.at_level(logging.WARNING):
        long = pipe(prompt=monologue, max_new_tokens=10, **OPTIONS)
        pipe(prompt=monologue, max_new_tokens=10, **OPTIONS)
    assert len([record for record in caplog.records if "the last 2" in record.message]) == 1
    writer = documents.BlockCoder(pipe.autoencoder, 4).writer
    blocks = writer.begin(monologue).blocks
    other = "".join(blocks[1:])
    assert len(blocks) > 3 and writer.begin(other).blocks[-2:] == blocks[-2:]
    same = pipe(prompt=other, max_new_tokens=10, **OPTIONS)
    assert same.texts == long.texts and torch.equal(same.latents, long.latents)
    near = "".join(blocks[:-2]) + " What stands just before is read." + "".join(blocks[-1:])
    assert not torch.equal(pipe(prompt=near, max_new_tokens=10, **OPTIONS).latents, long.latents)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt": "A", "source": "B"}, "source cannot be given to a model that writes documents"),
        ({"prompt": ["A", "B", "C"], "num_samples": 2}, "3 prompts were given for 2 samples"),
        ({"prompt": "A", "max_new_tokens": 0}, "max_new_tokens is 0; it must be"),
        ({"prompt": "A", "max_new_tokens": True}, "max_new_tokens is True"),
        ({"prompt": 3}, "prompt is 3; give a text or a list of them"),
        ({"prompt": []}, r"prompt is \[\]; give a text"),
        ({"prompt": "A", "best_of": 2}, "best_of is 2"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_what_cannot_work_is_refused(pipe, options, said):
    with pytest.raises(ConfigError, match=said):
        pipe(**options)


def test_a_model_without_documents_takes_no_prompt(autoencoder):
    plain = TextDiffusionPipeline(autoencoder, make_model())
    for options in ({"prompt": "A pub"}, {"max_new_tokens": 5}):
        with pytest.raises(ConfigError, match="recipe=blocks dataset.documents=true"):
            plain(**options)
        with pytest.raises(ConfigError, match="recipe=blocks dataset.documents=true"):
            plain.stream(**options)


def test_a_writer_is_saved_and_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    again = TextDiffusionPipeline.from_pretrained(tmp_path)
    assert (
        again(prompt=PROMPTS, max_new_tokens=20, **OPTIONS).texts
        == pipe(prompt=PROMPTS, max_new_tokens=20, **OPTIONS).texts
    )
