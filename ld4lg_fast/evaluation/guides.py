"""What guides cost: over their weights, how many texts have the attribute, and how fluent and different they still are.

The attribute is judged by the words of a text alone (`WordModel`), learned from labelled texts that the guide has not
seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ld4lg_fast.data.labelled import read_labelled
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation.comparisons import Measure
from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.evaluation.report import Row
from ld4lg_fast.export.runtime.guide_options import describe_guides
from ld4lg_fast.pipeline.guide_fitting import check_labelled, fit_words
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.word_model import WordModel

QUANTILES = (0.1, 0.5, 0.9)  # of the labels: the numbers that a guide leads to


@dataclass(frozen=True)
class GuideJudge:
    """A guide and what tells whether a text is as it should be.

    ``values``: the classes, or numbers, that texts are led to, in turn; ``classes`` are those of ``words``, None of
    numbers.
    """

    name: str
    values: Sequence[Any]
    words: WordModel
    classes: tuple[str, ...] | None

    def targets(self, count: int) -> list[Any]:
        """A value for each of ``count`` samples."""
        return [self.values[number % len(self.values)] for number in range(count)]

    def judged(self, texts: Sequence[str]) -> dict[str, float]:
        """``attribute``: the share of texts with their `targets`; or ``miss``: the mean distance from their numbers."""
        scores = self.words.scores(texts)
        if self.classes is None:
            return {"miss": (scores[:, 0] - torch.tensor(self.targets(len(texts)))).abs().mean().item()}
        wanted = torch.tensor([self.classes.index(name) for name in self.targets(len(texts))])
        return {"attribute": (scores.argmax(dim=1) == wanted).float().mean().item()}


def read_judges(pipe: TextDiffusionPipeline, files: Mapping[str, str] | None) -> list[GuideJudge]:
    """The judges of the guides, each from the labelled texts of a file, in the column of the guide's name.

    Raises:
        ConfigError: there is no such guide, the texts are those that it has learned from, too few or of one class, or
            none has one of its classes.
        DataError: a file cannot be read, or has no such column.
    """
    judges = []
    for name, file in (files or {}).items():
        if name not in pipe.text_guides:
            known = {each: guide.classes for each, guide in pipe.text_guides.items()}
            raise ConfigError(
                f"There is no guide {name} for evaluation.guide_data; {describe_guides(known)}."
            )
        guide = pipe.text_guides[name]
        column = "target_column" if guide.classes is None else "label_column"
        data = read_labelled(Path(file), **{column: name})
        check_labelled(data)
        if data.fingerprint() == guide.facts.get("fingerprint"):
            raise ConfigError(
                f"evaluation.guide_data has for {name} the texts that the guide has learned from; give other ones."
            )
        values: Sequence[Any]
        if guide.classes is None:
            labels = torch.tensor(data.labels, dtype=torch.float32)
            values = labels.quantile(torch.tensor(QUANTILES)).tolist()
        else:
            values = [label for label in guide.classes if label in data.labels]
        if not values:
            raise ConfigError(
                f"No text of {file} has a class of the guide {name}, {', '.join(guide.classes or ())}."
            )
        words, classes, _ = fit_words(data)
        judges.append(GuideJudge(name, values, words, classes))
    return judges


def guide_rows(
    judges: Sequence[GuideJudge],
    samples: Mapping[tuple[str, float], Sequence[str]],
    references: Sequence[str],
    training: TrainingNgrams,
    measure: Measure,
) -> list[Row]:
    """A row for each guide and weight, from the samples of each."""
    by_name = {judge.name: judge for judge in judges}
    rows = []
    for (name, weight), texts in samples.items():
        result = measure(texts, references[: len(texts)], training)
        result = result | {"metrics": by_name[name].judged(texts) | result["metrics"]}
        rows.append(
            Row(f"guide {name}, weight {weight:g}", {"guide": name, "guide_weight": weight}, [result])
        )
    return rows
