"""Statistics of the training texts, source files, candidates and decoding."""

import json
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.decoding.reranking import get_similarity, in_groups, oracle
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError
from ld4lg_fast.export.runtime.similarity import minimum_bayes_risk, rouge_l
from ld4lg_fast.pipeline.sources import read_sources
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.training.derived_options import chosen_decoding
from tests.conftest import make_model


def rows_file(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_source_files_are_read_by_their_column(tmp_path):
    rows = [{"src": "one", "trg": "x"}, {"src": " ", "trg": "y"}, {"src": "two", "trg": "z"}]
    assert read_sources(rows_file(tmp_path / "a.jsonl", rows)) == ["one", "two"]
    with pytest.raises(DataError, match="its columns are a, b"):
        read_sources(rows_file(tmp_path / "b.jsonl", [{"a": "1", "b": "2"}]))
    (tmp_path / "c.txt").write_text("\n\n")
    with pytest.raises(DataError, match="no source text"):
        read_sources(tmp_path / "c.txt")


def test_minimum_bayes_risk_takes_the_middle_and_the_oracle_the_nearest():
    candidates = ["the cat sat on the mat", "dogs bark", "the cat sat on a mat", "the cat lay on the mat"]
    assert minimum_bayes_risk(candidates) == 0 and minimum_bayes_risk(candidates, rouge_l) == 0
    assert minimum_bayes_risk(["only"]) == 0
    index, score = oracle(candidates, "dogs bark loudly", rouge_l)
    assert index == 1 and score == pytest.approx(80.0)


def test_statistics_are_kept_and_unknown_ones_are_said_to_be(tmp_path):
    statistics = RunStatistics((0, 0, 3, 0, 5), ("a", "b"), (6, 2), "somewhere", 1)
    statistics.save(tmp_path)
    assert RunStatistics.load(tmp_path) == statistics
    ids = torch.arange(4000)
    lengths, classes = statistics.draw_lengths(1, ids), statistics.draw_classes(1, ids)
    assert set(lengths.tolist()) == {2, 4} and abs((lengths == 2).float().mean() - 3 / 8) < 0.03
    assert abs((classes == 0).float().mean() - 3 / 4) < 0.03
    assert torch.equal(statistics.draw_lengths(1, ids[7:9]), lengths[7:9])
    assert RunStatistics.load(tmp_path / "nowhere") == RunStatistics()
    with pytest.raises(CheckpointError, match="are unknown"):
        RunStatistics().draw_lengths(0, ids)
    (tmp_path / "statistics.json").write_text('{"token_lengths": 3}')
    with pytest.raises(CheckpointError, match="is damaged"):
        RunStatistics.load(tmp_path)


def test_rouge_l_is_that_of_the_usual_package():
    # Figures of rouge-score 0.1.2.
    cases = {
        ("the Cat, sat on 3 mats", "a cat on the 3 mats sat"): 61.538,
        ("a b c d", "b d a c"): 50.0,
        ("", "x"): 0.0,
    }
    for (hypothesis, reference), score in cases.items():
        assert rouge_l(hypothesis, reference) == pytest.approx(score, abs=1e-3)


def test_candidates_come_in_groups_and_unknown_similarities_are_refused():
    assert in_groups(["a", "b", "c", "d"], 2) == [["a", "b"], ["c", "d"]]
    with pytest.raises(ConfigError, match="choose one of bleu, rougeL"):
        get_similarity("taste")


def test_a_recipe_says_how_latents_become_text(tmp_path):
    with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        published, ours = (OmegaConf.to_container(compose("train", [f"recipe={v}"])) for v in ("v2", "v3"))
    assert chosen_decoding(published, from_sources=False) == DecodingConfig()
    drawn, searched = (chosen_decoding(ours, from_sources=asked) for asked in (False, True))
    papers = {"no_repeat_ngram_size": 3, "repetition_penalty": 1.2}
    assert (drawn.strategy, drawn.top_p, drawn.rules) == ("nucleus", 0.95, NO_RULES)
    assert (searched.strategy, searched.rules) == ("beam", papers)
    assert replace(drawn, strategy="greedy").rules == papers
    assert replace(drawn, repetition_penalty=1.5).rules == NO_RULES | {"repetition_penalty": 1.5}
    assert chosen_decoding({}, from_sources=True) == DecodingConfig(), "a run of an earlier version"
    with pytest.raises(
        ConfigError, match="decoding.top_q does not exist; the entries are strategy, max_length"
    ):
        chosen_decoding({"decoding": {"top_q": 1}}, from_sources=False)
    for decoding in (DecodingConfig("greedy"), DecodingConfig()):
        decoding.save(tmp_path)
        assert DecodingConfig.load(tmp_path) == decoding
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["num_beams", "num_decodes"])
def test_a_file_asks_for_no_more_texts_at_once_than_are_made_in_a_moment(name, tmp_path, autoencoder):
    strategy = {"strategy": "nucleus"} if name == "num_decodes" else {}
    DecodingConfig(**strategy, **{name: 64}).save(tmp_path)
    assert getattr(DecodingConfig.load(tmp_path), name) == 64
    stored = json.loads((tmp_path / "decoding.json").read_text())
    asked = DecodingConfig(**strategy, **{name: 256})
    for count in (65, 256, 257, 1000):
        (tmp_path / "decoding.json").write_text(json.dumps(stored | {name: count}))
        with pytest.raises(
            CheckpointError, match=rf"decoding\.json is damaged: {name} is {count}; it must be"
        ):
            DecodingConfig.load(tmp_path)
    with pytest.raises(ConfigError, match=f"{name} is 256; it must be at most 64, more only where a call"):
        chosen_decoding({"decoding": strategy | {name: 256}}, from_sources=False)
    pipe = TextDiffusionPipeline(autoencoder, make_model(), decoding=asked)
    with pytest.raises(ConfigError, match=f"{name} is 256; it must be at most 64"):
        pipe.save_pretrained(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("length", [1, 2, 3, 32, 33, 65, 1000])
def test_sources_are_as_long_as_the_language_model_reads(autoencoder, length, tmp_path):
    """Of 32 positions, two special tokens among them."""
    model = make_model(dim_context=64, recipe={"source_max_len": length})
    if 3 <= length <= 32:
        pipe = TextDiffusionPipeline(autoencoder, model)
        assert len(pipe(1, source="a pub " * 99, num_inference_steps=1, decoding="greedy").texts) == 1
        return
    with pytest.raises(
        CheckpointError,
        match=rf"denoiser/config\.json says recipe\.source_max_len {length}, .* 3 to 32 tokens",
    ):
        TextDiffusionPipeline(autoencoder, model)
    TextDiffusionPipeline(autoencoder, make_model(recipe={"source_max_len": length}))  # reads no sources
