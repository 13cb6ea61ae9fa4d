"""Which texts are measured together, and against which: one row of the report each."""

from collections.abc import Callable, Mapping, Sequence

from ld4lg_fast.candidates import in_groups, minimum_bayes_risk, oracle
from ld4lg_fast.data import TextDataset
from ld4lg_fast.errors import DataError
from ld4lg_fast.evaluation.references import References, of_class
from ld4lg_fast.evaluation.report import Row

Measure = Callable[..., dict]
Samples = Mapping[int, Mapping[str, Sequence[str]]]
"""Texts by seed, by decoding."""


def groups_of(references: References, names: Sequence[str]) -> dict[str, list[int]]:
    """All samples under the name "", and, where they are of several classes, each class under its name."""
    groups = {"": list(range(len(references.texts)))}
    labels = references.labels or []
    if len(set(labels)) > 1:
        for label in sorted(set(labels)):
            groups[names[label]] = [i for i, own in enumerate(labels) if own == label]
    return groups


def text_rows(
    samples: Samples,
    references: References,
    training: Sequence[str],
    names: Sequence[str],
    measure: Measure,
) -> list[Row]:
    """A row for each decoding, and one for each class of it: that class's samples and references."""
    rows = []
    for decoding in next(iter(samples.values())):
        for group, members in groups_of(references, names).items():
            row = Row(_joined(decoding, group), {"strategy": decoding, "class": group or None})
            real = [references.texts[i] for i in members]
            for texts in samples.values():
                row.results.append(measure([texts[decoding][i] for i in members], real, training))
            rows.append(row)
    return rows


def reference_rows(
    dataset: TextDataset, references: References, names: Sequence[str], measure: Measure
) -> list[Row]:
    """What real texts reach: the references themselves against equally many validation and training texts."""
    rows = []
    for split in ("validation", "train"):
        if split == references.split:
            continue
        for group, members in groups_of(references, names).items():
            # All references of this group have one class, or the group is that of all classes.
            labels = {references.labels[i] for i in members} if references.labels else set()
            others = of_class(getattr(dataset, split), labels.pop() if len(labels) == 1 else None)
            name = _joined(f"{references.split} texts against {split}", group)
            facts = {"texts": references.split, "references": split, "class": group or None}
            try:
                result = measure([references.texts[i] for i in members], others.texts, dataset.train.texts)
            except DataError as error:
                result = _all_skipped(len(members), error)
            rows.append(Row(name, facts, [result]))
    return rows


def pair_rows(samples: Samples, references: References, num_candidates: int, measure: Measure) -> list[Row]:
    """A row for each decoding, one for what it wrote for other sources, and one for copying the source.

    With several candidates a decoding has three: the first candidate, the choice by minimum Bayes risk, and
    that of an oracle that knows the reference.
    """
    choices: dict[str, Callable[[list[str], str], int]] = {"": lambda candidates, reference: 0}
    if num_candidates > 1:
        choices = {
            "first candidate": choices[""],
            "minimum Bayes risk": lambda candidates, reference: minimum_bayes_risk(candidates),
            "oracle": lambda candidates, reference: oracle(candidates, reference)[0],
        }
    rows = []
    for decoding in next(iter(samples.values())):
        # What a model that looks at no source would reach: each text against the next source's reference.
        others = Row(_joined(decoding, "for other sources"), {"strategy": decoding, "choice": "other source"})
        for texts in samples.values():
            first = texts[decoding][::num_candidates]
            others.results.append(measure([*first[-1:], *first[:-1]], references.texts))
        for choice, choose in choices.items():
            row = Row(_joined(decoding, choice), {"strategy": decoding, "choice": choice or None})
            for texts in samples.values():
                groups = zip(in_groups(texts[decoding], num_candidates), references.texts, strict=True)
                chosen = [candidates[choose(candidates, real)] for candidates, real in groups]
                row.results.append(measure(chosen, references.texts))
            rows.append(row)
        rows.append(others)
    rows.append(
        Row("copy of the source", {"choice": "source"}, [measure(references.sources, references.texts)])
    )
    return rows


def _joined(first: str, second: str) -> str:
    return f"{first}, {second}" if second else first


def _all_skipped(num_texts: int, reason: Exception) -> dict:
    return {"num_texts": num_texts, "empty_texts": 0, "metrics": {}, "skipped": {"all metrics": str(reason)}}
