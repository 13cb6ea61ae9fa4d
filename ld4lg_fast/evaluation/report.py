"""What an evaluation found: figures over the seeds, the JSON file, and the table on the console."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from ld4lg_fast.evaluation.confidence import summary
from ld4lg_fast.evaluation.metrics import METRICS
from ld4lg_fast.terminal.console import TextConsole, console
from ld4lg_fast.terminal.versions import installed_versions

PACKAGES = (
    *("ld4lg-fast", "torch", "transformers", "numpy", "scikit-learn", "faiss-cpu", "mauve-text", "spacy"),
    *("rouge-score", "sacrebleu"),
)
DECIMALS = {"perplexity": 1, "unique_words": 0, "sacrebleu": 2}
WIDTH_WHERE_PIPED = 160


def versions() -> dict[str, str]:
    """Versions of the packages that figures depend on, of those that are installed."""
    return installed_versions(PACKAGES)


@dataclass
class Row:
    """One line of the table: the results of the same texts under each seed.

    ``results`` are those of `metrics.evaluate_texts` or `metrics.evaluate_pairs`; ``facts`` say which texts.
    """

    name: str
    facts: Mapping = field(default_factory=dict)
    results: list[Mapping] = field(default_factory=list)

    def metrics(self) -> dict[str, dict]:
        """Mean and interval of each metric that every seed has."""
        names = [name for name in METRICS if all(name in result["metrics"] for result in self.results)]
        return {name: summary([result["metrics"][name] for result in self.results]) for name in names}

    def skipped(self) -> dict[str, str]:
        """Why a metric is missing, for each that some seed lacks."""
        return {name: why for result in self.results for name, why in result["skipped"].items()}

    def as_dict(self) -> dict:
        counts = {
            "num_texts": self.results[0]["num_texts"],
            "empty_texts": [result["empty_texts"] for result in self.results],
        }
        return {
            "name": self.name,
            **self.facts,
            **counts,
            "metrics": self.metrics(),
            "skipped": self.skipped(),
        }


def _cell(figure: Mapping | None, decimals: int) -> str:
    if figure is None:
        return "–"
    text = f"{figure['mean']:.{decimals}f}"
    if "interval_95" in figure:
        text += f" ± {figure['interval_95'][1] - figure['mean']:.{decimals}f}"
    return text


def print_report(rows: Sequence[Row], title: str) -> None:
    """The table, and below it one line for each reason why metrics are missing."""
    figures = [row.metrics() for row in rows]
    names = [name for name in METRICS if any(name in figure for figure in figures)]
    several = any(len(row.results) > 1 for row in rows)
    note = "±: half the 95 % interval of the mean over the seeds" if several else None
    table = Table(title=title, caption=note)
    table.add_column("texts")
    table.add_column("number", justify="right")
    for name in names:
        table.add_column(name.replace("_", "\n"), justify="right")
    for row, figure in zip(rows, figures, strict=True):
        cells = [_cell(figure.get(name), DECIMALS.get(name, 3)) for name in names]
        table.add_row(row.name, str(row.results[0]["num_texts"]), *cells)
    # A log file is no narrow terminal.
    wide = {"file": console.file, "width": WIDTH_WHERE_PIPED, "quiet": console.quiet}
    (console if console.is_terminal else TextConsole(**wide)).print(table)
    for why, missing in _reasons(rows).items():
        console.print(f"{', '.join(missing)} skipped: {why}.")
    for row in rows:
        if empty := sum(result["empty_texts"] for result in row.results):
            total = sum(result["num_texts"] for result in row.results)
            console.print(f"{row.name}: {empty} of {total} texts are empty and left out.")


def _reasons(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Sentence -> metrics, each once."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        for name, why in row.skipped().items():
            metrics = reasons.setdefault(why, [])
            if name not in metrics:
                metrics.append(name)
    return reasons
