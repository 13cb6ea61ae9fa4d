"""Results of an evaluation: metrics over the seeds, and the table on the console."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from ld4lg_fast.evaluation.cautions import ONE_SEED
from ld4lg_fast.evaluation.confidence import summary
from ld4lg_fast.evaluation.metrics import METRICS
from ld4lg_fast.terminal.console import TextConsole, console
from ld4lg_fast.terminal.versions import installed_versions

PACKAGES = (
    *("ld4lg-fast", "torch", "transformers", "numpy", "scikit-learn", "faiss-cpu", "mauve-text", "spacy"),
    *("rouge-score", "sacrebleu"),
)
DECIMALS = {"perplexity": 1, "perplexity_given_prompt": 1, "unique_words": 0, "miss": 2, "sacrebleu": 2}
WIDTH_WHERE_PIPED = 160


def versions() -> dict[str, str]:
    """Versions of the installed packages that metrics depend on."""
    return installed_versions(PACKAGES)


LEGENDS = {
    "attribute": "share of texts that are what the guide leads to, judged by their words",
    "miss": "mean distance from the number that the guide leads to, judged by the words",
    "mauve": "likeness of samples and references in the features of a language model, 0 to 1, higher is better",
    "mauve_real": "MAUVE of as many other real texts with the references: no model can be expected to be above it",
    "mauve_sentence": "the same in the features of a sentence encoder",
    "perplexity": "mean over the texts, by a language model; lower reads more fluently",
    "perplexity_given_prompt": "mean over the continuations, of their tokens after those of the prompt",
    "repeated_4grams": "share of word 4-grams that the same text has had before",
    "diversity": "product of the shares of distinct 2-, 3- and 4-grams of spaCy's tokens; higher repeats less",
    "memorization": "share of the 4-grams (spaCy's tokens) that occur in the training texts",
    "diversity_words": "diversity over words, as spaCy is not installed; not comparable with published figures",
    "memorization_words": "memorization over words, likewise",
    "unique_words": "distinct words of all texts together",
    "rouge1": "ROUGE-1, -2 and L: shared words, word pairs and longest common subsequence, 0 to 1",
    "bertscore_f1": "likeness of the token features of text and reference by a language model",
    "sacrebleu": "BLEU, 0 to 100",
    "gap_sacrebleu": "what choosing gains over the first candidate, as a share of what the best one would gain",
}


@dataclass
class Row:
    """One row of the table: results for each seed.

    ``results`` come from `metrics.evaluate_texts` or `metrics.evaluate_pairs`; ``facts`` describe the texts.
    """

    name: str
    facts: Mapping = field(default_factory=dict)
    results: list[Mapping] = field(default_factory=list)

    def metrics(self) -> dict[str, dict]:
        """Mean and interval of each metric that every seed has."""
        names = [name for name in METRICS if all(name in result["metrics"] for result in self.results)]
        return {name: summary([result["metrics"][name] for result in self.results]) for name in names}

    def skipped(self) -> dict[str, str]:
        """Reasons of the metrics that are missing for some seed."""
        return {name: why for result in self.results for name, why in result["skipped"].items()}

    def cautions(self) -> list[str]:
        """Why figures of the row mislead, a clause each."""
        found = dict.fromkeys(why for result in self.results for why in result.get("cautions", ()))
        alone = "strategy" in self.facts and len(self.results) == 1
        of_mauve = "mauve" in self.metrics() or "mauve_sentence" in self.metrics()
        return [*found, *([ONE_SEED] if alone and of_mauve else [])]

    def shape(self) -> dict[str, float]:
        """Mean over the seeds of each figure of `decoder_tolerance.TextShape`."""
        shapes = [result["shape"] for result in self.results if result.get("shape")]
        names = shapes[0] if shapes else ()
        return {name: summary([shape[name] for shape in shapes])["mean"] for name in names}

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
            "cautions": self.cautions(),
            "shape": self.shape(),
        }


def _cell(figure: Mapping | None, decimals: int) -> str:
    if figure is None:
        return "–"
    text = f"{figure['mean']:.{decimals}f}"
    if "interval_95" in figure:
        text += f" ± {figure['interval_95'][1] - figure['mean']:.{decimals}f}"
    return text


def print_report(rows: Sequence[Row], title: str) -> None:
    """Prints the table, and below it the reasons of missing metrics."""
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
        if row.cautions():
            doubtful = [name.startswith("mauve") and name in figure for name in names]
            cells = [f"{cell} (!)" if doubt else cell for cell, doubt in zip(cells, doubtful, strict=True)]
        table.add_row(row.name, str(row.results[0]["num_texts"]), *cells)
    # Log files get a wide table.
    wide = {"file": console.file, "width": WIDTH_WHERE_PIPED, "quiet": console.quiet}
    (console if console.is_terminal else TextConsole(**wide)).print(table)
    for name in filter(LEGENDS.__contains__, names):
        console.print(f"{name.replace('_', ' ')}: {LEGENDS[name]}.")
    for why, concerned in reasons(
        dict.fromkeys([row.name], why) for row in rows for why in row.cautions()
    ).items():
        console.print(f"(!) {', '.join(concerned)}: {why}.")
    for why, missing in reasons(row.skipped() for row in rows).items():
        console.print(f"{', '.join(missing)} skipped: {why}.")
    for row in rows:
        if empty := sum(result["empty_texts"] for result in row.results):
            total = sum(result["num_texts"] for result in row.results)
            console.print(f"{row.name}: {empty} of {total} texts are empty and left out.")


READINGS = ("loss", "entropy", "margin")


def print_tolerance(found: Mapping) -> None:
    """Prints how the decoder takes latents of each kind (`decoder_tolerance.measure_tolerance`), and what it means."""
    table = Table(title="The decoder's tolerance", caption="Per token: loss and entropy in nats.")
    table.add_column("latents")
    for name in READINGS:
        table.add_column(name, justify="right")
    for kind, own in readings_of(found).items():
        table.add_row(kind.replace("_", " "), *(f"{own[name]:.3f}" for name in READINGS))
    console.print(table)
    for check in found["checks"]:
        console.print(f"{check['line']}.")


def readings_of(found: Mapping) -> dict[str, Mapping]:
    """The readings among the figures of a decoder's tolerance, by kind of latents."""
    return {kind: own for kind, own in found.items() if "margin" in own}


def reasons(skipped: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Reason -> missing metrics, from the reasons of each row's metrics."""
    found: dict[str, dict[str, None]] = {}
    for row in skipped:
        for name, why in row.items():
            found.setdefault(why, {})[name] = None
    return {why: list(names) for why, names in found.items()}
