"""All metrics of a set of texts as one dictionary, with reasons for those that cannot be computed.

Both functions return ``{"num_texts", "empty_texts", "metrics": {name: value}, "skipped": {name: sentence},
"cautions": [clause], "shape": {name: value}}``; the shape is that of `decoder_tolerance.TextShape`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ld4lg_fast.errors import DataError
from ld4lg_fast.evaluation import bertscore, ngrams, seq2seq
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.cautions import Truncated, mauve_cautions
from ld4lg_fast.evaluation.features import language_model_features, sentence_features
from ld4lg_fast.evaluation.mauve import check_mauve, mauve_score
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.options import EvaluationSettings
from ld4lg_fast.evaluation.perplexity import text_perplexities
from ld4lg_fast.evaluation.unavailable import ModelUnavailable, Unavailable
from ld4lg_fast.training.decoder_tolerance import TextShape

BERTSCORES = ("bertscore_precision", "bertscore_recall", "bertscore_f1")
TEXT_METRICS = (
    *("mauve", "mauve_real", "mauve_sentence", "perplexity", "diversity", "memorization"),
    *("diversity_words", "memorization_words", "unique_words"),
)
PAIR_METRICS = (
    *seq2seq.ROUGE,
    *seq2seq.STEMMED_ROUGE,
    *BERTSCORES,
    "sacrebleu",
    "gap_sacrebleu",
    "gap_rougeL",
)
CONTINUATION_METRICS = ("perplexity_given_prompt", "repeated_4grams")  # see `continuations`
GUIDE_METRICS = ("attribute", "miss")  # see `guides`
METRICS = (*GUIDE_METRICS, *TEXT_METRICS, *CONTINUATION_METRICS, *PAIR_METRICS)


@dataclass
class _Results:
    num_texts: int
    empty_texts: int
    metrics: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    cautions: list[str] = field(default_factory=list)
    shape: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, texts: Sequence[str]) -> "_Results":
        shape = asdict(TextShape.of(texts)) if texts else {}
        return cls(len(texts), sum(not text.strip() for text in texts), shape=shape)

    def add(self, name: str, compute: Callable[[], float], model: str = "") -> None:
        self.add_all([name], lambda: {name: compute()}, model)

    def add_all(
        self, names: Sequence[str], compute: Callable[[], Mapping[str, float]], model: str = ""
    ) -> None:
        """Adds the results of ``compute``, or the reason for their absence; ``model`` is its model's option."""
        try:
            self.metrics.update(compute())
        except ModelUnavailable as reason:
            self.skipped.update(dict.fromkeys(names, reason.of_option(f"evaluation.{model}")))
        except Unavailable as reason:
            self.skipped.update(dict.fromkeys(names, str(reason)))

    def as_dict(self) -> dict:
        return dict(vars(self))


@dataclass
class _Scorer:
    """Computes metrics with the models of ``settings`` and a cache."""

    settings: EvaluationSettings
    models: ScoringModels
    cache: ArrayCache

    def mauve(self, name: str, texts: Sequence[str], references: Sequence[str]) -> float:
        check_mauve(min(len(texts), len(references)))
        load = self.models.language_model
        own, real = (self._features(language_model_features, name, load, of) for of in (texts, references))
        return mauve_score(own, real, self.settings.mauve_scaling_factor)

    def sentence_mauve(self, name: str, texts: Sequence[str], references: Sequence[str]) -> float:
        check_mauve(min(len(texts), len(references)))
        load = self.models.encoder
        own, real = (self._features(sentence_features, name, load, of) for of in (texts, references))
        return mauve_score(own, real, self.settings.sentence_scaling_factor)

    def _features(self, compute: Callable, name: str, load: Callable, texts: Sequence[str]) -> np.ndarray:
        limit, size = self.settings.max_length, self.settings.batch_size
        parts = (self.models.fingerprint(name), str(limit), *texts)
        return self.cache.get(
            compute.__name__, parts, lambda: compute(texts, load(name), limit, size), rows=len(texts)
        )

    def perplexity(self, name: str, texts: Sequence[str]) -> float:
        def compute() -> np.ndarray:
            return text_perplexities(texts, self.models.language_model(name), self.settings.batch_size)

        parts = (self.models.fingerprint(name), *texts)
        values = self.cache.get("perplexities", parts, compute, rows=len(texts))
        if not np.isfinite(values).all():
            raise Unavailable(f"the model {name} gives some text no finite perplexity")
        return float(values.mean(dtype=np.float64))

    def memorization(self, texts: Sequence[str], training: Sequence[str] | ngrams.TrainingNgrams) -> float:
        _, tokens_of = ngrams.best_tokens()
        if not isinstance(training, ngrams.TrainingNgrams):
            training = ngrams.TrainingNgrams(training, self.cache)
        return ngrams.memorization(tokens_of(texts), training.hashes)

    def bertscore(
        self, name: str, predictions: Sequence[str], references: Sequence[str]
    ) -> Mapping[str, float]:
        layer = self.settings.bertscore_layer
        layer = bertscore.published_layer(name) if layer is None else layer
        encoder = self.models.encoder(name)
        scores = bertscore.bert_scores(predictions, references, encoder, layer, self.settings.batch_size)
        return dict(zip(BERTSCORES, scores.mean(dim=0).tolist(), strict=True))


def evaluate_texts(
    samples: str | Sequence[str],
    references: str | Sequence[str],
    training: Sequence[str] | ngrams.TrainingNgrams | None = None,
    *,
    settings: EvaluationSettings | None = None,
    models: ScoringModels | None = None,
    cache: ArrayCache | None = None,
    held_out: Sequence[str] | None = None,
    truncated: Truncated | None = None,
) -> dict:
    """MAUVE, perplexity, diversity, memorization and unique words of ``samples``.

    Without spaCy, n-grams are over words, and the metrics are ``diversity_words`` and ``memorization_words``.

    Empty samples are counted and excluded from the metrics.

    Args:
        references: held-out real texts, of which the first ``len(samples)`` are used.
        training: the training texts, for memorization, or for several calls their `TrainingNgrams`; None omits the
            metric.
        settings: the scoring models.
        models: share one object between calls to load each model once.
        cache: for features, perplexities and the training set's n-grams.
        held_out: other real texts, as many as ``samples``; their MAUVE with the references is ``mauve_real``, what is
            reached at this size.
        truncated: see `cautions.Truncated`.

    Raises:
        DataError: fewer references than samples.
    """
    samples, references = _lists(samples, references)
    if len(references) < len(samples):
        raise DataError(
            f"there are only {len(references)} reference texts for {len(samples)} samples: "
            f"ask for at most {len(references)} samples"
        )
    settings = settings or EvaluationSettings()
    scorer = _Scorer(settings, models or ScoringModels(), cache or ArrayCache())
    results = _Results.of(samples)
    texts = [text for text in samples if text.strip()]
    real = [text for text in references[: len(samples)] if text.strip()]
    if not texts or not real:
        results.skipped["all metrics"] = f"all {len(samples)} texts are empty"
        return results.as_dict()
    if (mauve := settings.mauve_model) is not None:
        results.add("mauve", lambda: scorer.mauve(mauve, texts, real), "mauve_model")
        if held_out is not None and "mauve" in results.metrics:
            others = [text for text in held_out if text.strip()]
            results.add("mauve_real", lambda: scorer.mauve(mauve, others, real), "mauve_model")
    if (sentence := settings.sentence_model) is not None:
        results.add("mauve_sentence", lambda: scorer.sentence_mauve(sentence, texts, real), "sentence_model")
    if (perplexity := settings.perplexity_model) is not None:
        results.add("perplexity", lambda: scorer.perplexity(perplexity, texts), "perplexity_model")
    if {"mauve", "mauve_sentence"} & results.metrics.keys():
        results.cautions += mauve_cautions(texts, real, training, settings.max_length, truncated)
    kind, tokens_of = ngrams.best_tokens()
    results.add(f"diversity{kind}", lambda: ngrams.diversity(tokens_of(texts)))
    if training is not None:
        results.add(f"memorization{kind}", lambda: scorer.memorization(texts, training))
    results.add("unique_words", lambda: ngrams.unique_words(texts))
    return results.as_dict()


def _lists(*texts: str | Sequence[str]) -> list[Sequence[str]]:
    """Turns single texts into lists."""
    return [[part] if isinstance(part, str) else part for part in texts]


def evaluate_pairs(
    predictions: str | Sequence[str],
    references: str | Sequence[str],
    *,
    settings: EvaluationSettings | None = None,
    models: ScoringModels | None = None,
) -> dict:
    """ROUGE-1/2/L with and without stemming, BERTScore, and SacreBLEU of one prediction per reference.

    Raises:
        DataError: their numbers differ or are zero.
    """
    predictions, references = _lists(predictions, references)
    if len(predictions) != len(references) or not len(references):
        raise DataError(
            f"{len(predictions)} texts and {len(references)} references do not pair: give one for each"
        )
    settings = settings or EvaluationSettings()
    scorer = _Scorer(settings, models or ScoringModels(), ArrayCache())
    results = _Results.of(predictions)
    results.add_all(seq2seq.ROUGE, lambda: seq2seq.rouge(predictions, references))
    results.add_all(seq2seq.STEMMED_ROUGE, lambda: seq2seq.rouge(predictions, references, stem=True))
    if (name := settings.bertscore_model) is not None:
        results.add_all(
            BERTSCORES, lambda: scorer.bertscore(name, predictions, references), "bertscore_model"
        )
    results.add("sacrebleu", lambda: seq2seq.sacrebleu(predictions, references))
    return results.as_dict()
