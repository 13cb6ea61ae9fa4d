"""Trainings around a decoder-only language model: recipes, conditions, LoRA, resuming, and what cannot be combined."""

import json
import shutil

import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.pretrained import fetched
from ld4lg_fast.pipeline.model_card import model_card
from ld4lg_fast.training import main, preparation
from ld4lg_fast.training.autoencoder_model import trusts_code
from tests.language_models import spread, tiny_decoder_only
from tests.training.small_runs import SMALLEST, STEPS, command, losses, refused

FEW = {"sampler": "ddim", "num_inference_steps": 2, "seed": 1}


@pytest.fixture(scope="module")
def causal(tmp_path_factory, tokenizer):
    """The options of a run around a tiny Qwen 3, as a hub would hold it."""
    folder = tmp_path_factory.mktemp("hub") / "tiny-qwen3"
    torch.manual_seed(0)
    spread(tiny_decoder_only("qwen3", len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    # Losses that are compared do not depend on what is faster.
    return ["autoencoder=causal", f"autoencoder.name_or_path={folder}", "autoencoder.cache_states=false"]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory, causal):
    path = tmp_path_factory.mktemp("causal") / "run"
    command(path, *causal)
    return path


def test_both_stages_learn_and_the_pipeline_has_all_its_operations(run_dir):
    for stage in ("autoencoder", "diffusion"):
        found = losses(run_dir, stage)
        assert sorted(found) == list(range(1, STEPS + 1)) and found[STEPS] < found[1]
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    decoding = DecodingConfig("nucleus", max_length=12, num_decodes=2, choose_decode="score")
    for how in ("greedy", "beam", decoding):
        texts = pipe(2, decoding=how, **FEW).texts
        assert texts == pipe(2, decoding=how, **FEW).texts
    (latents, mask), texts = pipe.encode(["a pub", "an inn"]), ["a pub", "an inn"]
    assert mask is None and pipe.confidences(latents, texts).shape == (2,)
    assert "a" in pipe.infill("a ___ pub", num_samples=2, max_tokens=2, **FEW).texts[0]


def test_the_card_names_the_language_model_and_its_licence(run_dir):
    card = model_card(TextDiffusionPipeline.from_pretrained(run_dir), "me/model")
    assert "| language model | tiny-qwen3, licence: apache-2.0 |" in card.text
    assert "| language autoencoder | qwen3, 64 wide" in card.text
    assert card.data.base_model is None, "no model of the hub"


def test_an_interrupted_first_stage_is_resumed(run_dir, tmp_path):
    resumed = tmp_path / "run"
    shutil.copytree(run_dir, resumed)
    for name in ("denoiser", "autoencoder", "checkpoints/diffusion", f"checkpoints/autoencoder/step_{STEPS}"):
        shutil.rmtree(resumed / name)
    main(["resume=true", f"hydra.run.dir={resumed}", "train.stage=autoencoder"])
    assert losses(resumed, "autoencoder") == losses(run_dir, "autoencoder")


def test_documents_with_a_model_that_is_read_in_both_directions(causal, tmp_path):
    blocks = ["recipe=blocks", "dataset.documents=true", "dataset.max_len=24", "recipe.prefix_tokens=4"]
    reading = ["autoencoder.bidirectional=true", "autoencoder.layer=2", "autoencoder.store_lm=false"]
    command(tmp_path / "run", *causal, *blocks, *reading, "recipe.context_layers=1")
    assert not (tmp_path / "run" / "autoencoder" / "language_model").exists()
    pipe = TextDiffusionPipeline.from_pretrained(tmp_path / "run")
    texts = pipe(prompt=["The Old Mill is", ""], max_new_tokens=30, **FEW).texts
    assert all(texts) and texts[0] != texts[1]


def test_classes_and_sources_with_lora(causal, tmp_path):
    pytest.importorskip("peft")
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"text": f"text number {i}", "label": "ab"[i % 2], "source": f"number {i}"} for i in range(60)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("dataset.label_column=label", "dataset.source_column=source", "dataset.seq2seq=true")
    sizes = [option for option in SMALLEST if not option.startswith("dataset")]
    run, stopped = tmp_path / "run", ["recipe=v2", "autoencoder.lora.rank=2"]
    options = [*sizes, *causal, "dataset=custom", f"dataset.root={corpus}", *columns, *stopped]
    main([*options, f"hydra.run.dir={run}"])
    for name in ("denoiser", "autoencoder", "checkpoints/diffusion", f"checkpoints/autoencoder/step_{STEPS}"):
        shutil.rmtree(run / name)
    before = losses(run, "autoencoder")
    main(["resume=true", f"hydra.run.dir={run}"])
    assert losses(run, "autoencoder") == before
    pipe = TextDiffusionPipeline.from_pretrained(run)
    assert not any("lora" in name for name in pipe.autoencoder.state_dict())
    plain = fetched(causal[1].partition("=")[2]).lm.state_dict()
    merged = pipe.autoencoder.lm.state_dict()
    changed = {name for name, weight in plain.items() if not torch.equal(merged[name], weight)}
    assert "model.layers.1.mlp.up_proj.weight" in changed and "lm_head.weight" not in changed
    assert len(pipe(2, source=["number 3", "number 4"], class_id=[1, 0], **FEW).texts) == 2


REFUSED = [
    ("autoencoder.lora.rank=0", "autoencoder.lora.rank is 0; it must be a whole number from 1"),
    ("autoencoder.lora.alpha=0", "autoencoder.lora.alpha is 0; it must be a finite number above 0"),
    ("+autoencoder.lora.dropout=0.1", "There is no option autoencoder.lora.dropout"),
    ("autoencoder.lora=3", "autoencoder.lora=3 must be a group of options"),
    (
        "autoencoder.lora.rank=2 autoencoder.freeze_lm=false",
        "needs a pretrained language model that is frozen",
    ),
    ("autoencoder.layer=0", "autoencoder.layer is 0; it must be a whole number from 1"),
    ("autoencoder.layer=9", "autoencoder.layer=9 is more than the 2 layers"),
    ("autoencoder.bidirectional=2", "autoencoder.bidirectional is 2; it must be true or false"),
    ("autoencoder.store_lm=no-one", "autoencoder.store_lm is 'no-one'; it must be true or false"),
    (
        "autoencoder.store_lm=false autoencoder.freeze_lm=false",
        "store_lm=false needs a language model that training",
    ),
    ("recipe=v1 model.denoiser.dim=64", "recipe=v1 needs a language model with an encoder"),
    ("dataset.max_len=252", "handles at most 251 tokens, but max_len is 252"),
    ("autoencoder.name_or_path=no/model", "neither a local folder with a model nor reachable on the hub"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_options_that_cannot_be_had_are_refused_before_anything_is_written(
    options, sentence, causal, tmp_path, capsys
):
    assert sentence in refused(capsys, command, tmp_path / "run", *causal, *options.split())
    assert not (tmp_path / "run").exists()


def test_lora_from_scratch_is_refused(tmp_path, capsys):
    options = ("+autoencoder.lora.rank=2", "autoencoder=scratch")
    assert "needs a pretrained language model" in refused(capsys, command, tmp_path / "run", *options)


def test_a_resumed_run_does_not_consent_to_code(causal, tmp_path, capsys, monkeypatch):
    """Its config is not asked; the option is that of the command."""
    run = tmp_path / "run"
    asked = []
    load = preparation.load_pretrained

    def seen(config, dataset):
        asked.append(trusts_code(config))
        return load(config, dataset)

    monkeypatch.setattr(preparation, "load_pretrained", seen)
    command(
        run,
        *causal,
        "autoencoder.trust_remote_code=true",
        "train.stage=autoencoder",
        "train.autoencoder.steps=1",
    )
    for options in ([], ["autoencoder.trust_remote_code=true"]):
        main(["resume=true", f"hydra.run.dir={run}", "train.autoencoder.steps=2", *options])
        shutil.rmtree(run / "autoencoder")
        shutil.rmtree(run / "checkpoints" / "autoencoder" / "step_2")
    assert asked == [True, False, True]
