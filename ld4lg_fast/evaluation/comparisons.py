"""The rows of the report: which texts are measured, and against which references."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from ld4lg_fast.data import TextDataset, TextSplit
from ld4lg_fast.decoding.reranking import choose, in_groups, oracle
from ld4lg_fast.errors import DataError
from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.evaluation.references import References, of_class
from ld4lg_fast.evaluation.report import Row
from ld4lg_fast.export.runtime.similarity import SCORE, SIMILARITIES

Measure = Callable[..., dict]
Choose = Callable[[Sequence[str], Sequence[float], str], int]
"""(candidates, their log-probabilities under the decoder, reference) -> index"""

ORACLES = {"bleu": "sacrebleu", "rougeL": "rougeL"}
"""The metric that an oracle by each similarity maximises."""

Samples = Mapping[int, Mapping[str, Sequence[str]]]
"""Texts by seed, by decoding."""


def groups_of(references: References, names: Sequence[str]) -> dict[str, list[int]]:
    """Indices of all samples under "", and of each class under its name if there are several."""
    groups = {"": list(range(len(references.texts)))}
    labels = references.labels or []
    if len(set(labels)) > 1:
        for label in sorted(set(labels)):
            groups[names[label]] = [i for i, own in enumerate(labels) if own == label]
    return groups


def text_rows(
    samples: Samples,
    references: References,
    training: TrainingNgrams,
    names: Sequence[str],
    measure: Measure,
    others: TextSplit | None = None,
) -> list[Row]:
    """A row for each decoding, and one for each class of its samples and references.

    ``others``: real texts that are no references, for ``mauve_real``, left out where there are too few of a class.
    """
    rows = []
    for decoding in next(iter(samples.values())):
        for group, members in groups_of(references, names).items():
            row = Row(_joined(decoding, group), {"strategy": decoding, "class": group or None})
            real = [references.texts[i] for i in members]
            held_out = _others_like(members, references, others)
            for texts in samples.values():
                own = [texts[decoding][i] for i in members]
                more = {} if others is None else {"held_out": held_out}
                row.results.append(measure(own, real, training, **more))
                if held_out is None and others is not None and "mauve" in row.results[-1]["metrics"]:
                    row.results[-1]["skipped"]["mauve_real"] = f"there are not {len(real)} other real texts"
            rows.append(row)
    return rows


def _others_like(
    members: Sequence[int], references: References, others: TextSplit | None
) -> list[str] | None:
    """As many of ``others`` as references ``members``, with as many of each class; None if there are fewer."""
    if others is None:
        return None
    wanted = Counter(references.labels[i] if references.labels else None for i in members)
    found: list[str] = []
    for label, count in wanted.items():
        texts = of_class(others, label).texts[:count]
        if len(texts) < count:
            return None
        found += texts
    return found


def named(rows: Sequence[Row], name: str, facts: Mapping) -> list[Row]:
    """The rows of decodings over all classes and own sources, with a suffix of the name and further facts."""
    return [
        Row(_joined(row.name, name), {**row.facts, **facts}, row.results)
        for row in rows
        if not row.facts.get("class")
        and "strategy" in row.facts
        and row.facts.get("choice") != "other source"
    ]


def reference_rows(
    dataset: TextDataset,
    references: References,
    training: TrainingNgrams,
    names: Sequence[str],
    measure: Measure,
) -> list[Row]:
    """Rows of real texts: the references measured against equally many validation and training texts."""
    rows = []
    for split in ("validation", "train"):
        if split == references.split:
            continue
        for group, members in groups_of(references, names).items():
            # A group has either one class or all of them.
            labels = {references.labels[i] for i in members} if references.labels else set()
            others = of_class(getattr(dataset, split), labels.pop() if len(labels) == 1 else None)
            name = _joined(f"{references.split} texts against {split}", group)
            facts = {"texts": references.split, "references": split, "class": group or None}
            try:
                result = measure([references.texts[i] for i in members], others.texts, training)
            except DataError as error:
                result = _all_skipped(len(members), error)
            rows.append(Row(name, facts, [result]))
    return rows


def pair_rows(
    samples: Samples,
    references: References,
    num_candidates: int,
    measure: Measure,
    scores: Mapping[int, Mapping[str, Sequence[float]]] | None = None,
) -> list[Row]:
    """A row for each decoding, one for its outputs for other sources, and one for copies of the sources.

    With several candidates, which need ``scores``, a decoding has a row for each way to choose one (`choices`), with
    metrics ``gap_…``: its share of the oracle's gain over the first candidate.
    """
    ways = choices() if num_candidates > 1 else {"": lambda candidates, sure, reference: 0}
    rows = []
    for decoding in next(iter(samples.values())):
        # A baseline that ignores sources: each text against the next source's reference.
        others = Row(_joined(decoding, "for other sources"), {"strategy": decoding, "choice": "other source"})
        for texts in samples.values():
            first = texts[decoding][::num_candidates]
            others.results.append(measure([*first[-1:], *first[:-1]], references.texts))
        own = []
        for name, choose_one in ways.items():
            row = Row(_joined(decoding, name), {"strategy": decoding, "choice": name or None})
            for seed, texts in samples.items():
                groups = in_groups(texts[decoding], num_candidates)
                sure = in_groups(scores[seed][decoding], num_candidates) if scores else [()] * len(groups)
                whole = zip(groups, sure, references.texts, strict=True)
                kept = [group[choose_one(group, known, real)] for group, known, real in whole]
                row.results.append(measure(kept, references.texts))
            own.append(row)
        if num_candidates > 1:
            _add_gaps(own)
        rows += [*own, others]
    rows.append(
        Row("copy of the source", {"choice": "source"}, [measure(references.sources, references.texts)])
    )
    return rows


def choices() -> dict[str, Choose]:
    """Ways to choose one of several candidates, by name; oracles use the reference."""
    ways: dict[str, Choose] = {
        "first candidate": lambda candidates, sure, reference: 0,
        "surest": lambda candidates, sure, reference: choose(candidates, sure, SCORE),
    }
    for name in ORACLES:
        ways[f"minimum Bayes risk by {name}"] = _chosen_by(name)
    for name, similarity in SIMILARITIES.items():
        ways[f"oracle by {name}"] = _nearest_by(similarity)
    return ways


def _chosen_by(name: str) -> Choose:
    return lambda candidates, sure, reference: choose(candidates, sure, name)


def _nearest_by(similarity: Callable[[str, str], float]) -> Choose:
    return lambda candidates, sure, reference: oracle(candidates, reference, similarity)[0]


def _add_gaps(rows: Sequence[Row]) -> None:
    """Adds each choice's share of the oracle's gain over the first candidate, in the oracle's metric."""
    by_choice = {row.facts["choice"]: row for row in rows}
    for name, metric in ORACLES.items():
        pairs = zip(by_choice["first candidate"].results, by_choice[f"oracle by {name}"].results, strict=True)
        ends = [[result["metrics"].get(metric) for result in pair] for pair in pairs]
        for row in rows:
            for result, (low, high) in zip(row.results, ends, strict=True):
                if None not in (low, high) and high > low:
                    result["metrics"][f"gap_{metric}"] = (result["metrics"][metric] - low) / (high - low)


def _joined(first: str, second: str) -> str:
    return f"{first}, {second}" if second else first


def _all_skipped(num_texts: int, reason: Exception) -> dict:
    return {"num_texts": num_texts, "empty_texts": 0, "metrics": {}, "skipped": {"all metrics": str(reason)}}
