"""Deterministic mode of the pipeline: latents and texts with the same bits alone, in any batch and as a request."""

import pytest
import torch

from ld4lg_fast import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend
from ld4lg_fast.pipeline.continuous_batching import RequestEngine, SampleRequest
from tests.pipeline.engine_models import (
    CLASSES,
    KINDS,
    NUCLEUS,
    PROMPTS,
    SOURCES,
    make_pipe,
    run_to_end,
    texts_of,
)

pytestmark = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")
COUNT = 6
BEAM = DecodingConfig("beam", max_length=12, min_length=0, num_beams=3, no_repeat_ngram_size=2)


@pytest.fixture(scope="module")
def pipes(tokenizer):
    return {kind: make_pipe(kind, tokenizer).set_deterministic() for kind in KINDS}


def conditions(kind, rows):
    """Of some samples, a source, a prompt or a class each."""
    if kind == "source":
        return {"source": [SOURCES[row % 3] for row in rows]}
    if kind == "documents":
        return {"prompt": [PROMPTS[row % 3] for row in rows], "max_new_tokens": 20}
    return {"class_id": [row % 3 for row in rows]} if kind in ("classes", "lengths") else {}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("decoding", [NUCLEUS, BEAM], ids=["nucleus", "beam"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_the_same_in_every_batch(pipes, kind, decoding, precision):
    pipe, every = pipes[kind], list(range(COUNT))

    def written(rows, batch_size=64):
        options = {"num_inference_steps": 3, "sampler": "ddpm", "seed": 5, "precision": precision}
        output = pipe(
            len(rows),
            sample_ids=rows,
            batch_size=batch_size,
            decoding=decoding,
            **options,
            **conditions(kind, rows),
        )
        return output.latents, output.texts

    latents, texts = written(every)
    assert len(set(texts)) > 1
    for rows in ([0], [4], [5, 1, 2]):
        alone, own = written(rows)
        assert own == [texts[row] for row in rows]
        assert kind == "documents" or torch.equal(alone, latents[rows])
    for batch_size in (1, 4):
        again, same = written(every, batch_size)
        assert same == texts and (kind == "documents" or torch.equal(again, latents))


@pytest.mark.parametrize("kind", KINDS)
def test_requests_beside_others_get_the_texts_of_the_pipeline(pipes, kind):
    pipe, tickets, wanted = pipes[kind], [], []
    engine = RequestEngine(pipe, max_rows=4)
    for number in range(5):
        given = conditions(kind, [number])
        given = {name: value if name == "max_new_tokens" else value[0] for name, value in given.items()}
        if given.pop("class_id", None) is not None:
            given["class_name"] = CLASSES["class_names"][number % 3]
        options = {"num_inference_steps": 2 + number, "sampler": "er_sde", "seed": number, **given}
        tickets.append(engine.submit(SampleRequest(num_samples=2, decoding=NUCLEUS, **options)))
        wanted.append(pipe(2, decoding=NUCLEUS, **options).texts)
    run_to_end(engine)
    assert [texts_of(ticket) for ticket in tickets] == wanted


def test_encoded_texts_and_their_scores_do_not_depend_on_their_batch(pipes):
    pipe = pipes["plain"]
    texts = ["the pub near the river is cheap", "a place", "food " * 20, "an inn"]
    whole, _ = pipe.encode(texts)
    scores = pipe.confidences(whole, texts)
    for row, text in enumerate(texts):
        alone, _ = pipe.encode([text])
        assert torch.equal(alone[0], whole[row])
        assert torch.equal(pipe.confidences(alone, [text])[0], scores[row])


def test_what_the_mode_cannot_have_is_refused(tokenizer):
    pipe = make_pipe("plain", tokenizer)
    decoding = DecodingConfig("nucleus", num_decodes=2, choose_decode="score")
    with pytest.raises(
        ConfigError, match="scores the texts of a batch together; with deterministic=true choose bleu"
    ):
        pipe.set_deterministic()(1, quality="draft", decoding=decoding)
    with pytest.raises(ConfigError, match="deterministic is 'yes'; it must be true or false"):
        pipe.set_deterministic("yes")
    with pytest.raises(ConfigError, match="needs weights in fp32, not torch.bfloat16"):
        pipe.to(torch.bfloat16).set_deterministic()
    assert not pipe.set_deterministic(False).model.deterministic
