"""``ld4lg guide`` and ``--guide``: learned from a file, kept in the run, asked for on the command line and in Hydra."""

import json

import pytest
from typer.testing import CliRunner

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli.infer import infer
from ld4lg_fast.cli.main import app
from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.options.groups import INFER, checked_groups
from ld4lg_fast.terminal.hydra_help import config_text
from tests.conftest import make_model

OPTIONS = {"quality": "draft", "seed": 1}


@pytest.fixture
def run(autoencoder, tmp_path):
    pipe = TextDiffusionPipeline(autoencoder, make_model(), decoding=DecodingConfig("greedy", 12))
    pipe.save_pretrained(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def data(tmp_path):
    rows = [
        {"text": text, "size": ("short", "long")[len(text) > 60], "letters": len(text)}
        for text in generate_demo_texts(60)
    ]
    path = tmp_path / "labelled.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def ld4lg(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def learn(run, data, *words):
    return ld4lg("guide", run, "--data", data, "--num-samples", 30, *words)


def test_a_guide_is_learned_kept_and_followed(run, data, tmp_path):
    result = learn(run, data, "--label-column", "size")
    assert result.exit_code == 0, result.output
    assert "Accuracy on held-out texts" in result.output and "--guide size=" in result.output
    assert learn(run, data, "--target-column", "letters", "--name", "count").exit_code == 0
    pipe = TextDiffusionPipeline.from_pretrained(run)
    assert pipe.guides() == {"length": None, "count": None, "size": ("long", "short")}
    out = tmp_path / "texts.json"
    asked = ["--guide", "size=long:40", "--guide", "count=30"]
    result = ld4lg(
        "sample", run, "--num-samples", 2, "--quality", "draft", "--seed", 1, "--json", out, *asked
    )
    assert result.exit_code == 0, result.output
    content = json.loads(out.read_text())
    guides, scales = {"size": "long", "count": "30"}, {"size": 40.0}
    assert content["settings"]["guides"] == guides and content["settings"]["guide_scales"] == scales
    assert content["texts"] == pipe(2, guides=guides, guide_scales=scales, **OPTIONS).texts


def test_a_run_is_not_touched_by_what_is_refused(run, data):
    before = sorted(path for path in run.rglob("*"))
    for words, sentence in (
        ((), "give either --label-column or --target-column"),
        (("--label-column", "size", "--target-column", "letters"), "give either --label-column or"),
        (("--label-column", "mood"), "has no column mood"),
        (("--label-column", "size", "--name", "a b"), "The guide's name is 'a b'"),
    ):
        result = learn(run, data, *words)
        assert sentence in str(result.exception), result.output
    assert sorted(path for path in run.rglob("*")) == before
    result = learn("e2e-small", data, "--label-column", "size")
    assert isinstance(result.exception, CheckpointError) and "save_pretrained" in str(result.exception)


@pytest.mark.parametrize("word", ["food", "=x", "food=", "food=:3"])
def test_a_guide_without_name_or_value_is_refused_before_loading(word, monkeypatch):
    monkeypatch.setattr(TextDiffusionPipeline, "from_pretrained", None)
    result = ld4lg("sample", "--guide", word)
    assert isinstance(result.exception, ConfigError) and "it must be NAME=VALUE" in str(result.exception)


def test_hydra_options_lead_the_texts(run, data, tmp_path):
    from omegaconf import OmegaConf

    assert learn(run, data, "--label-column", "size").exit_code == 0
    config = OmegaConf.create(config_text("infer"))
    del config["defaults"], config["hydra"]
    overrides = {
        "infer": {"output_dir": str(run), "output_file": str(tmp_path / "out.json")},
        "generation": {"num_samples": 2, "quality": "draft", "seed": 1, "guides": {"size": "long"}},
    }
    overrides["generation"]["guide_scales"] = {"size": 40}
    content = json.loads(infer(OmegaConf.merge(config, overrides)).read_text())
    pipe = TextDiffusionPipeline.from_pretrained(run)
    assert content["texts"] == pipe(2, guides={"size": "long"}, guide_scales={"size": 40}, **OPTIONS).texts
    for wrong, sentence in (
        ({"guides": "long"}, "generation.guides is 'long'"),
        ({"guide_scales": {"a": "b"}}, "guide_sc"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            checked_groups(OmegaConf.merge(config, overrides, {"generation": wrong}), INFER)
