"""MAUVE with its warnings and its noise floor: in the results, the table, the JSON file and the page."""

import numpy as np
import pytest

from ld4lg_fast.data import TextDataset, TextSplit, generate_demo_texts
from ld4lg_fast.evaluation import EvaluationSettings, evaluate_texts
from ld4lg_fast.evaluation import report as report_module
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.cautions import ENOUGH_TEXTS, ONE_SEED, mauve_cautions
from ld4lg_fast.evaluation.comparisons import text_rows
from ld4lg_fast.evaluation.mauve import mauve_score
from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.evaluation.references import References, other_real_texts
from ld4lg_fast.evaluation.report import Row, print_report
from ld4lg_fast.evaluation.report_page import _table
from ld4lg_fast.terminal.console import TextConsole
from tests.evaluation.test_evaluation_metrics import save_language_model

TEXTS = generate_demo_texts(160)
ENOUGH = [f"{text} {number}" for number, text in enumerate(TEXTS * 7)][:ENOUGH_TEXTS]
OTHERS = [f"{text} too" for text in ENOUGH]


def test_enough_equal_texts_have_no_warning():
    assert mauve_cautions(ENOUGH, OTHERS, TEXTS, 256, lambda texts: 0) == []


@pytest.mark.parametrize(
    ("samples", "references", "training", "max_length", "cut", "words"),
    [
        (ENOUGH[:-1], OTHERS[:-1], None, 256, 0, f"MAUVE of {ENOUGH_TEXTS - 1} texts is biased"),
        ([*ENOUGH, "more"], OTHERS, None, 256, 0, "compares 1001 texts with 1000 references"),
        ([text[: len(text) // 2] for text in ENOUGH], OTHERS, None, 256, 0, "MAUVE measures length, too"),
        (ENOUGH, OTHERS, OTHERS[:20], 256, 0, "20 of 1000 references are training texts"),
        ([*ENOUGH[:-1], "long " * 40], OTHERS, None, 39, 0, "1 texts have more words than the 39 tokens"),
        (ENOUGH, OTHERS, None, 256, 3, "3 of 1000 texts are as long as the model's longest"),
    ],
)
def test_each_warning(samples, references, training, max_length, cut, words):
    def truncated(texts):
        return cut if texts is samples else 0

    (said,) = mauve_cautions(samples, references, training, max_length, truncated)
    assert words in said


def test_references_among_training_texts_are_counted_once(monkeypatch):
    index = TrainingNgrams(TEXTS, ArrayCache())
    assert index.count_texts([*TEXTS[:5], "another"]) == 5
    index.texts = None  # is not read again
    assert index.count_texts([*TEXTS[:5], "another"]) == 5


def test_faiss_prints_nothing(capfd):
    pytest.importorskip("mauve")
    generator = np.random.default_rng(0)
    mauve_score(*generator.normal(size=(2, 40, 8)).astype(np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.fixture(scope="module")
def settings(tokenizer, tmp_path_factory):
    pytest.importorskip("mauve")
    model = save_language_model(tokenizer, tmp_path_factory.mktemp("models") / "gpt2-tiny")
    return EvaluationSettings(mauve_model=model, perplexity_model=None, bertscore_model=None)


def test_the_floor_is_mauve_of_other_real_texts(settings):
    samples, references, others = TEXTS[:40], TEXTS[40:80], TEXTS[80:120]
    found = evaluate_texts(samples, references, settings=settings, held_out=others)["metrics"]
    assert found["mauve_real"] == evaluate_texts(others, references, settings=settings)["metrics"]["mauve"]
    assert "mauve_real" not in evaluate_texts(samples, references, settings=settings)["metrics"]


def test_rows_have_floor_and_warnings_everywhere(settings, monkeypatch, capsys):
    def measure(texts, real, training, **more):
        return evaluate_texts(texts, real, None, settings=settings, **more)

    references = References("test", TEXTS[40:80], None, None)
    samples = {seed: {"greedy": TEXTS[80 + 20 * seed : 120 + 20 * seed]} for seed in (0, 1)}
    (row,) = text_rows(samples, references, None, (), measure, TextSplit(TEXTS[:40]))
    assert {"mauve", "mauve_real"} <= row.metrics().keys() and "interval_95" in row.metrics()["mauve"]
    assert len(row.as_dict()["cautions"]) == 1 and "40 texts is biased" in row.as_dict()["cautions"][0]
    assert row.as_dict()["shape"]["words"] > 4
    (alone,) = text_rows({0: samples[0]}, references, None, (), measure, TextSplit(TEXTS[:39]))
    assert ONE_SEED in alone.cautions() and "mauve_real" not in alone.metrics()
    assert alone.skipped()["mauve_real"] == "there are not 40 other real texts"
    monkeypatch.setattr(report_module, "console", TextConsole(width=200))
    print_report([alone], "two")
    printed = " ".join(capsys.readouterr().out.split())
    assert f"(!) greedy: {ONE_SEED}." in printed and printed.count("(!)") == 3
    page = _table([alone.as_dict()])
    assert page.count("(!)") == 3 and ONE_SEED in page


def test_classes_have_as_many_other_texts_of_each(settings):
    seen = []

    def measure(texts, real, training, held_out):
        seen.append(held_out)
        return {"num_texts": 2, "empty_texts": 0, "metrics": {}, "skipped": {}}

    references = References("test", ["a", "b", "c"], [0, 1, 1], None)
    others = TextSplit(["d", "e", "f", "g"], [1, 0, 1, 0])
    text_rows({0: {"greedy": ["x", "y", "z"]}}, references, None, ("calm", "loud"), measure, others)
    assert seen == [["e", "d", "f"], ["e"], ["d", "f"]]


def test_other_real_texts_are_of_the_same_split_where_there_are_enough():
    def dataset(count):
        test = TextSplit([f"test {number}" for number in range(count)])
        return TextDataset("x", test, TextSplit(["v1", "v2", "v3"]), test, None, "")

    references = References("test", ["test 0", "test 1"], None, None)
    assert other_real_texts(dataset(4), references).texts == ["test 2", "test 3"]
    assert other_real_texts(dataset(3), references).texts == ["v1", "v2", "v3"]


def test_a_row_of_real_texts_needs_no_seeds():
    result = {"num_texts": 40, "empty_texts": 0, "metrics": {"mauve": 0.9}, "skipped": {}}
    assert Row("test texts against validation", {"texts": "test"}, [result]).cautions() == []
