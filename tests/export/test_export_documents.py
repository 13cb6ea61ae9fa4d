"""An exported model that writes documents goes on with prompts as the pipeline does."""

import json

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime.command import main as command
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig
from tests.conftest import PERCEIVER, make_model, randomize
from tests.export.export_models import LM, STATISTICS, saved, t5

BLOCKS = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.25,
    "prefix_tokens": 4,
}
PROMPTS = ["The Old Mill is a pub. It serves", "", "A cheap place near the river. " * 6, "é"]


def bart_writer(tokenizer):
    torch.manual_seed(0)
    autoencoder = LanguageAutoencoder.from_scratch(tokenizer, LM, PERCEIVER, max_len=24, max_positions=32)
    return autoencoder, {}


def t5_writer(tokenizer):
    perceiver = randomize(Perceiver(PerceiverConfig(dim_lm=64, max_len=24, **PERCEIVER)), std=0.2)
    return LanguageAutoencoder(t5(tokenizer), tokenizer, perceiver, 24, freeze_lm=True), {"num_classes": 3}


@pytest.fixture(scope="module", params=[bart_writer, t5_writer])
def exported(request, tokenizer, tmp_path_factory):
    autoencoder, sizes = request.param(tokenizer)
    model = make_model(recipe=BLOCKS, dim_context=64, depth=1, **sizes)
    randomize(model.context_encoder, seed=3)
    if request.param is bart_writer:
        randomize(autoencoder, std=0.2)
    pipe = TextDiffusionPipeline(autoencoder.eval(), model, STATISTICS if sizes else None)
    place, said = tmp_path_factory.mktemp("exported"), []
    folder = export_run(saved(pipe, place), place / "out", say=said.append)
    assert "denoiser output" in said[0]
    return pipe, folder


@pytest.mark.parametrize("strategy", ["greedy", "beam", "nucleus"])
def test_the_folder_writes_the_documents_of_the_pipeline(exported, strategy):
    pipe, folder = exported
    model = OnnxTextDiffusion(folder, threads=1)
    options = {"sampler": "ddim", "num_inference_steps": 4, "seed": 5}
    if pipe.model.denoiser.config.num_classes:
        options |= {"class_id": [0, 1, 2, 0], "guidance_scale": 1.7}
    decoding = DecodingConfig(strategy, max_length=15, length_penalty=2.0 if strategy == "beam" else None)
    wanted = pipe(prompt=PROMPTS, max_new_tokens=40, decoding=decoding, **options).texts
    rules = {"strategy": strategy, "max_length": 15} | ({"length_penalty": 2.0} if strategy == "beam" else {})
    got = model(prompt=PROMPTS, max_new_tokens=40, batch_size=3, **options, **rules)
    assert got == wanted and len(set(got)) > 2
    assert sum(len(text) for text in got) > 100, "several blocks each"


def test_the_command_goes_on_with_prompts(exported, tmp_path, capsys):
    _, folder = exported
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS[:1] * 2)
    )
    few = ["--num-inference-steps", "2", "--max-new-tokens", "6", "--json", "-"]
    command(folder, ["--prompt-file", str(tmp_path / "prompts.jsonl"), *few])
    of_file = json.loads(capsys.readouterr().out)
    command(folder, ["--prompt", PROMPTS[0], "--num-samples", "2", *few])
    assert json.loads(capsys.readouterr().out)["texts"] == of_file["texts"]
    assert len(of_file["texts"]) == 2 and of_file["settings"]["prompt"] == PROMPTS[:1] * 2


def test_prompts_that_cannot_be_gone_on_with_are_refused(exported):
    model = OnnxTextDiffusion(exported[1], threads=1)
    for options, sentence in (
        ({"prompt": 3}, "prompt is 3; give a text or a list of them"),
        ({"prompt": []}, r"prompt is \[\]"),
        ({"prompt": ["a", "b"], "num_samples": 3}, "2 prompts were given for 3 samples"),
        ({"prompt": "a", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt": "a", "source": "b"}, "trained without source texts"),
    ):
        with pytest.raises(RuntimeInputError, match=sentence):
            model(**options)
