"""What guides cost: rows and a plot over their weights, judged by words that the guide has not learned from."""

import json

import pytest

from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.evaluation.guides import read_judges
from ld4lg_fast.evaluation.report_page import _guides
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.conftest import make_model
from tests.evaluation.evaluated_runs import run_test, write_corpus, write_run

TEXTS = generate_demo_texts(90)


def write_labelled(path, texts):
    """Long and short texts, and the number of their letters."""
    rows = [{"text": t, "size": ("short", "long")[len(t) > 60], "letters": len(t)} for t in texts]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture
def led(autoencoder, tmp_path):
    """A run with two guides, learned from the first of two files."""
    write_corpus(tmp_path / "corpus")
    run = write_run(tmp_path / "run", autoencoder, tmp_path / "corpus")
    first, other = (write_labelled(tmp_path / f"{n}.jsonl", TEXTS[n::2]) for n in (0, 1))
    pipe = TextDiffusionPipeline.from_pretrained(run)
    rows = list(map(json.loads, first.read_text().splitlines()))
    texts, quick = [row["text"] for row in rows], {"num_samples": 20, "decoding": DecodingConfig("greedy", 8)}
    pipe.learn_guide("size", texts, [row["size"] for row in rows], **quick)
    pipe.learn_guide("letters", texts, [row["letters"] for row in rows], numeric=True, **quick)
    pipe.save_pretrained(run)
    return run, first, other


def test_each_guide_is_judged_at_each_weight(led, monkeypatch):
    run, _, other = led
    page = run.parent / "page.html"
    data = f"evaluation.guide_data={{size:'{other}',letters:'{other}'}}"
    content = run_test(monkeypatch, run, data, "evaluation.guide_weights=[0,50]", f"evaluation.report={page}")
    rows = {row["name"]: row for row in content["rows"]}
    pipe = TextDiffusionPipeline.from_pretrained(run)
    for name, metric in (("size", "attribute"), ("letters", "miss")):
        (judge,) = read_judges(pipe, {name: str(other)})
        for weight in (0, 50):
            row = rows[f"guide {name}, weight {weight}"]
            guides = {"guides": {name: judge.targets(6)}, "guide_scales": {name: weight}}
            sampled = pipe.sample(6, sampler="ddpm", num_inference_steps=2, seed=0, **guides)
            texts = pipe.decode(sampled.latents, DecodingConfig("greedy", 10))
            assert row["metrics"][metric]["mean"] == pytest.approx(judge.judged(texts)[metric])
            assert row["guide"] == name and row["guide_weight"] == weight and "unique_words" in row["metrics"]
    assert "size, weight 50" in page.read_text() and "<h3>Guides</h3>" in page.read_text()


def test_the_judge_knows_the_words(led):
    run, _, other = led
    judge, number = read_judges(
        TextDiffusionPipeline.from_pretrained(run), {"size": str(other), "letters": str(other)}
    )
    long, short = max(TEXTS, key=len), min(TEXTS, key=len)
    assert judge.targets(3) == ["long", "short", "long"]
    assert judge.judged([long, short]) == {"attribute": 1} and judge.judged([short, long]) == {"attribute": 0}
    low, middle, high = number.values
    assert low < middle < high and number.judged([long] * 3)["miss"] > 0


def test_the_plot_joins_the_weights_of_a_guide():
    def row(weight, share):
        figures = {"attribute": {"mean": share}, "perplexity": {"mean": 5 + weight}}
        return {"guide": "food", "guide_weight": weight, "metrics": figures}

    chart, caption = _guides([row(0, 0.1), row(3, 0.8), {"name": "beam", "metrics": {}}])
    assert chart.count("<circle") == 2 and "hollow" in chart and "polyline" in chart
    assert "food, weight 3 – attribute 0.8, perplexity 8" in chart and "share of texts" in caption
    assert _guides([{"name": "beam", "metrics": {"perplexity": {"mean": 5}}}]) is None


def test_what_cannot_judge_is_refused(led, tmp_path):
    run, first, other = led
    pipe = TextDiffusionPipeline.from_pretrained(run)
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("\n".join(json.dumps({"text": t, "size": "abc"[len(t) % 3]}) for t in TEXTS))
    for files, error, sentence in (
        (
            {"mood": other},
            ConfigError,
            "There is no guide mood for evaluation.guide_data; this model has letters",
        ),
        ({"size": first}, ConfigError, "the texts that the guide has learned from; give other ones"),
        (
            {"size": foreign},
            ConfigError,
            "No text of .*foreign.jsonl has a class of the guide size, long, short",
        ),
        ({"letters": foreign}, DataError, "has no column letters"),
    ):
        with pytest.raises(error, match=sentence):
            read_judges(pipe, {name: str(file) for name, file in files.items()})


def test_a_model_without_guides_says_how_to_learn_one(autoencoder):
    pipe = TextDiffusionPipeline(autoencoder, make_model())
    with pytest.raises(ConfigError, match="this model has none: learn one with ld4lg guide"):
        read_judges(pipe, {"food": "texts.jsonl"})
