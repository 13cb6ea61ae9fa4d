"""Decoder-only models as graphs: steps over caches give transformers' logits, a folder writes the pipeline's texts."""

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.causal_graphs import NAME, CausalStep, PrefixToCache, check_causal
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
from ld4lg_fast.models.language_models import MIDDLE_LAYER, Reading
from tests.conftest import PERCEIVER, make_model, randomize
from tests.export.export_models import saved
from tests.language_models import DECODER_ONLY, spread, tiny_decoder_only

BLOCKS = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.25,
    "prefix_tokens": 4,
}
SENTENCES, BEAMS, LENGTH = 2, 3, 5


def around(name, tokenizer, folder, reading=MIDDLE_LAYER, **options):
    """A language autoencoder around a tiny model that a folder holds."""
    spread(tiny_decoder_only(name, len(tokenizer), **options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = LanguageAutoencoder.from_pretrained_lm(str(folder), PERCEIVER, max_len=16, reading=reading)
    randomize(model.perceiver, std=0.2)
    return model.eval()


@pytest.mark.parametrize("name", DECODER_ONLY)
@torch.no_grad()
def test_steps_over_the_caches_give_the_logits_of_the_whole_text(name, tokenizer, tmp_path):
    model = around(name, tokenizer, tmp_path)
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(SENTENCES, 6, 8, generator=generator)
    tokens = torch.randint(4, 400, (SENTENCES, BEAMS, LENGTH), generator=generator)
    memory = model.decode_states(latents).repeat_interleave(BEAMS, 0)
    wanted = model.language_model.logits(memory, None, tokens.flatten(0, 1)).unflatten(0, (SENTENCES, BEAMS))
    model.lm.set_attn_implementation(NAME)
    step, prefix = CausalStep(model.lm), PrefixToCache(model)(latents)
    assert [tuple(part.shape) for part in prefix] == [(SENTENCES, 2, 6, 16)] * 4
    past = [torch.zeros(SENTENCES, 2, LENGTH, BEAMS, 16) for _ in prefix]
    own = torch.full((SENTENCES, BEAMS, LENGTH, BEAMS), -torch.inf)
    # In every step the beams of a sentence change places.
    order = torch.arange(BEAMS)
    for place in range(LENGTH):
        slots = torch.arange(BEAMS)
        own[:, slots, place, slots] = 0.0
        logits, *past = step(tokens[:, order, place], torch.tensor([place]), own.flatten(2), past, prefix)
        torch.testing.assert_close(logits, wanted[:, order, place])
        order, own = order.roll(1), own.roll(1, dims=1)


def test_a_folder_writes_the_documents_of_the_pipeline(tokenizer, tmp_path):
    pytest.importorskip("onnxscript")
    autoencoder = around("qwen3", tokenizer, tmp_path / "hub", Reading(1, True), num_hidden_layers=1)
    model = make_model(recipe=BLOCKS, dim_context=64, depth=1)
    randomize(model.context_encoder, seed=3)
    pipe, said = TextDiffusionPipeline(autoencoder, model), []
    folder = export_run(saved(pipe, tmp_path), tmp_path / "out", say=said.append)
    assert "decoder logits" in said[0]
    runtime = OnnxTextDiffusion(folder, threads=1)
    options = {"prompt": ["The Old Mill is a pub. It serves", ""], "max_new_tokens": 30}
    options |= {"sampler": "ddim", "num_inference_steps": 3, "seed": 5}
    for strategy in ("greedy", "beam", "nucleus"):
        wanted = pipe(decoding=DecodingConfig(strategy, max_length=15), **options).texts
        assert runtime(strategy=strategy, max_length=15, **options) == wanted
        assert all(wanted)


def test_attention_to_fewer_tokens_than_a_text_has_is_refused(tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="sees 20 tokens cannot be exported for texts of 23"):
        check_causal(around("mistral", tokenizer, tmp_path, sliding_window=20))
