"""Exported decoder-only models write the texts of the pipeline: of every architecture, after documents and sources."""

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
from ld4lg_fast.models.language_models import MIDDLE_LAYER, Reading
from tests.conftest import PERCEIVER, make_model, randomize
from tests.export.export_models import STATISTICS, saved
from tests.language_models import DECODER_ONLY, spread, tiny_decoder_only

pytest.importorskip("onnxscript")
BLOCKS = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.25,
    "prefix_tokens": 4,
}
FEW = {"sampler": "ddim", "num_inference_steps": 3, "seed": 5}


def around(name, tokenizer, folder, reading=MIDDLE_LAYER, **options):
    """A language autoencoder around a tiny model that a folder holds."""
    spread(tiny_decoder_only(name, len(tokenizer), **options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LanguageAutoencoder.from_pretrained_lm(str(folder), PERCEIVER, max_len=16, reading=reading)
    randomize(model.perceiver, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", DECODER_ONLY)
def test_each_architecture_writes_the_texts_of_the_pipeline(name, tokenizer, tmp_path):
    pipe = TextDiffusionPipeline(around(name, tokenizer, tmp_path / "hub"), make_model(depth=1))
    said = []
    folder = export_run(saved(pipe, tmp_path), tmp_path / "out", say=said.append)
    assert "decoder logits" in said[0]
    model = OnnxTextDiffusion(folder, threads=1)
    for strategy in ("greedy", "beam", "nucleus"):
        decoding = DecodingConfig(strategy, max_length=15)
        wanted = pipe(3, decoding=decoding, **FEW).texts
        assert model(3, strategy=strategy, max_length=15, **FEW) == wanted
        assert any(wanted)


def test_documents_and_a_reading_in_both_directions(tokenizer, tmp_path):
    autoencoder = around("qwen2", tokenizer, tmp_path / "hub", Reading(1, True))
    model = make_model(recipe=BLOCKS, dim_context=64, depth=1)
    randomize(model.context_encoder, seed=3)
    pipe = TextDiffusionPipeline(autoencoder, model)
    folder = export_run(saved(pipe, tmp_path), tmp_path / "out", say=lambda text: None)
    options = {"prompt": ["The Old Mill is a pub. It serves", ""], "max_new_tokens": 30, **FEW}
    wanted = pipe(decoding=DecodingConfig("greedy", max_length=15), **options).texts
    assert OnnxTextDiffusion(folder, threads=1)(strategy="greedy", max_length=15, **options) == wanted
    assert len(wanted[0]) > len("The Old Mill is a pub. It serves")


def test_sources_and_classes(tokenizer, tmp_path):
    autoencoder = around("llama", tokenizer, tmp_path / "hub")
    model = make_model(recipe={"source_max_len": 12}, depth=1, num_classes=3, dim_context=64)
    pipe = TextDiffusionPipeline(autoencoder, model, STATISTICS)
    folder = export_run(saved(pipe, tmp_path), tmp_path / "out", say=lambda text: None)
    options = {"source": ["a cheap pub", "an inn"], "class_id": [0, 2], **FEW}
    wanted = pipe(decoding=DecodingConfig("greedy", max_length=15), **options).texts
    assert OnnxTextDiffusion(folder, threads=1)(strategy="greedy", max_length=15, **options) == wanted


def test_attention_to_fewer_tokens_than_a_text_has_is_refused(tokenizer, tmp_path):
    pipe = TextDiffusionPipeline(
        around("mistral", tokenizer, tmp_path / "hub", sliding_window=20), make_model()
    )
    with pytest.raises(ConfigError, match="sees 20 tokens cannot be exported for texts of 23"):
        export_run(saved(pipe, tmp_path), tmp_path / "out")
