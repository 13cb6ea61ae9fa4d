"""Tiny pipelines of every kind, by what a request may ask of them, and what tests of a `RequestEngine` do with them."""

import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline.continuous_batching import Finished, RequestEngine, SampleRequest
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import PERCEIVER, RECIPE, make_model, randomize
from tests.pipeline.test_prompts import BLOCKS

LM = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
GREEDY = DecodingConfig("greedy", max_length=12, min_length=0, no_repeat_ngram_size=2)
NUCLEUS = DecodingConfig("nucleus", max_length=12, min_length=0, no_repeat_ngram_size=2)
V1 = RECIPE | {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": 50, "objective": "pred_x0"}
CLASSES = {"class_names": ("pub", "cafe", "bar"), "class_counts": (3, 2, 1)}
PROMPTS = ["The Old Mill is a pub. It serves", "", "A cheap place"]
SOURCES = ["the pub near the river is cheap", "a place", "food " * 20]
KINDS = ("plain", "classes", "source", "lengths", "documents")

LONG = SampleRequest(num_samples=31, num_inference_steps=12, sampler="ddim", decoding=GREEDY)
SHORT = SampleRequest(num_inference_steps=3, sampler="ddpm", decoding=GREEDY, seed=9)


def make_pipe(kind: str, tokenizer) -> TextDiffusionPipeline:
    torch.manual_seed(0)
    perceiver = None if kind == "lengths" else PERCEIVER
    autoencoder = LanguageAutoencoder.from_scratch(tokenizer, LM, perceiver, max_len=32, max_positions=40)
    return TextDiffusionPipeline(
        randomize(autoencoder, std=0.2),
        make_denoiser(kind),
        RunStatistics(
            length_counts=(0,) * 4 + (1,) * 16 if kind == "lengths" else (),
            **(CLASSES if kind in ("classes", "lengths") else {}),
        ),
        NUCLEUS,
    )


def make_denoiser(kind: str) -> LatentDiffusion:
    match kind:
        case "plain":
            return make_model()
        case "classes":
            return make_model(recipe={"class_drop_prob": 0.0}, num_classes=3)
        case "source":
            return make_model(recipe={"l2_normalized": True}, dim_context=64)
        case "documents":
            model = make_model(recipe=BLOCKS | {"context_drop_prob": 0.1}, dim_context=64)
            randomize(model.context_encoder, seed=3)
            return model
    sizes = {"dim": 64, "depth": 2, "dim_latent": 64, "max_len": 32, "dropout": 0.0, "num_classes": 3}
    model = LatentDiffusion.create(V1, sizes).eval()
    randomize(model.denoiser)
    return model


def texts_alone(pipe, request):
    """What the pipeline gives for a request's options."""
    options = {name: value for name, value in vars(request).items() if value is not None}
    options.pop("show_steps")
    if (length := options.pop("length", None)) is not None:
        special = pipe.check_length(length)
        options["lengths"] = torch.full((request.num_samples,), length + special)
    if not pipe.model.writes_documents:
        options.pop("max_new_tokens", None)
    return pipe(**options).texts


def texts_of(ticket):
    events = [event for event in ticket.events() if isinstance(event, Finished)]
    assert len({event.sample for event in events}) == len(events) == ticket.num_samples
    return [event.text for event in sorted(events, key=lambda event: event.sample)]


def run_to_end(engine: RequestEngine) -> None:
    """Answers all that has been submitted, in this thread."""
    engine.close()
    engine.run()


def after_each_step(engine, act):
    """Calls ``act(steps)`` in the engine's thread after every step."""
    advance = engine._advance

    def watched():
        advance()
        act(engine.stats().steps)

    engine._advance = watched


def steps_of(engine, ticket):
    return [sample.steps for sample in engine.running.keys if sample.ticket is ticket]


def answer_until(engine, done):
    """Runs the engine in this thread until it has nothing to do; then ``done()`` has to hold."""
    has_work = engine._has_work

    def work():
        with engine._changed:
            waits = engine._requests or engine._next or len(engine.running) or len(engine.decoder)
        return bool(waits) and has_work()

    engine._has_work = work
    engine.run()
    engine._has_work = has_work
    assert done()
