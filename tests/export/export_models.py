"""Tiny pipelines with random weights, one for each kind that can be exported."""

from pathlib import Path

import torch
from transformers import T5ForConditionalGeneration

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import PERCEIVER, RECIPE, make_model, randomize
from tests.language_models import tiny_t5

STATISTICS = RunStatistics((0, 0, 0, 1, 2, 4, 3, 1), ("pub", "cafe", "bar"), (4, 0, 7))
LM = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}


def bart(tokenizer, perceiver: dict | None, max_len: int = 16) -> LanguageAutoencoder:
    torch.manual_seed(0)
    return randomize(LanguageAutoencoder.from_scratch(tokenizer, LM, perceiver, max_len), std=0.2).eval()


def v2_bart(tokenizer, max_len: int = 16) -> TextDiffusionPipeline:
    return TextDiffusionPipeline(bart(tokenizer, PERCEIVER, max_len), make_model(num_dense_connections=1))


def v3_bart(tokenizer) -> TextDiffusionPipeline:
    """Class-conditional, with the options that recipe v3 adds to v2."""
    recipe = {"version": "v3", "objective": "pred_flow", "schedule": "straight"}
    model = make_model(recipe=recipe, depth=1, num_classes=3, qk_norm=True)
    return TextDiffusionPipeline(bart(tokenizer, PERCEIVER), model, STATISTICS)


def t5(tokenizer) -> T5ForConditionalGeneration:
    return randomize(tiny_t5(len(tokenizer), num_heads=2), std=0.4)


def v2_t5(tokenizer) -> TextDiffusionPipeline:
    """Class-conditional and sequence-to-sequence at once, on the sphere, classes never dropped."""
    perceiver = randomize(Perceiver(PerceiverConfig(dim_lm=64, max_len=16, **PERCEIVER)), std=0.2)
    recipe = {"class_drop_prob": 0.0, "l2_normalized": True, "source_max_len": 12, "schedule": "tan-3"}
    model = make_model(recipe=recipe, depth=1, num_classes=3, dim_context=64)
    autoencoder = LanguageAutoencoder(t5(tokenizer), tokenizer, perceiver, 16, freeze_lm=True)
    return TextDiffusionPipeline(autoencoder, model, STATISTICS)


def v1_bart(tokenizer) -> TextDiffusionPipeline:
    return TextDiffusionPipeline(bart(tokenizer, None), v1_model(), STATISTICS)


def v1_t5(tokenizer) -> TextDiffusionPipeline:
    autoencoder = LanguageAutoencoder(t5(tokenizer), tokenizer, None, 16, freeze_lm=True)
    return TextDiffusionPipeline(autoencoder, v1_model(), STATISTICS)


def v1_model() -> LatentDiffusion:
    recipe = {name: RECIPE[name] for name in ("self_condition_prob", "class_drop_prob")}
    recipe |= {"version": "v1", "objective": "pred_x0", "loss_type": "l1"}
    recipe |= {"beta_schedule": "linear", "num_train_timesteps": 100}
    sizes = {"dim": 64, "depth": 1, "dim_latent": 64, "max_len": 16, "num_classes": 3, "dropout": 0.0}
    model = LatentDiffusion.create(recipe, sizes)
    randomize(model.denoiser)
    model.set_statistics(torch.randn(20, 16, 64, generator=torch.Generator().manual_seed(9)) * 2)
    return model


MAKERS = {maker.__name__: maker for maker in (v2_bart, v2_t5, v1_bart, v1_t5, v3_bart)}


def saved(pipe: TextDiffusionPipeline, place: Path) -> Path:
    pipe.save_pretrained(place / "run")
    return place / "run"
