"""Tiny pipelines of every kind, by what a request may ask of them."""

import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import PERCEIVER, RECIPE, make_model, randomize
from tests.pipeline.test_prompts import BLOCKS

LM = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
GREEDY = DecodingConfig("greedy", max_length=12, min_length=0, no_repeat_ngram_size=2)
NUCLEUS = DecodingConfig("nucleus", max_length=12, min_length=0, no_repeat_ngram_size=2)
V1 = RECIPE | {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": 50, "objective": "pred_x0"}
CLASSES = {"class_names": ("pub", "cafe", "bar"), "class_counts": (3, 2, 1)}
KINDS = ("plain", "classes", "source", "lengths", "documents")


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
