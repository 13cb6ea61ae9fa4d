"""A ladder of rungs, each timed in turns with the others; on the console, as JSON, a Markdown table and a plot."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass
class Rung:
    """A way to do the same work: ``precision`` says which remedies it competes with, ``ours`` whether it is one."""

    name: str
    precision: str
    ours: bool
    run: Callable[[], Any]


def speedups(rungs: Sequence[Rung], seconds: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """``speedup_vs_published`` (the rung of that name) and ``speedup_vs_remedies`` of each rung, by its name.

    The latter is ours over the best remedy of the same precision; None where there is nothing to compare with.
    """
    found = {}
    for rung in rungs:
        own = seconds[rung.name]
        rivals = [seconds[r.name] for r in rungs if not r.ours and r.precision == rung.precision]
        found[rung.name] = {
            "speedup_vs_published": seconds["published"] / own if "published" in seconds else None,
            "speedup_vs_remedies": min(rivals) / own if rung.ours and rivals else None,
        }
    return found


def cell(value: object) -> str:
    """A figure with three digits, or a dash where nothing was measured."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_ladder(rungs: Sequence[Mapping], columns: Sequence[str], title: str) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "name" else "right")
    for rung in rungs:
        table.add_row(*(cell(rung.get(column)) for column in columns))
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table)


def write_ladder(result: Mapping, columns: Sequence[str], speed: str, path: Path) -> None:
    """Writes ``path`` (JSON), and beside it a Markdown table of the columns and a plot of the column ``speed``.

    Where nothing was compared with, the plot has samples a second.
    """
    rungs = result["rungs"]
    speed = "samples_per_s" if rungs[0][speed] is None else speed
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(rung.get(column)) for column in columns) for rung in rungs]
    path.with_suffix(".md").write_text("".join(f"| {line} |\n" for line in lines))
    _plot(rungs, speed, path.with_suffix(".png"))
    print(path, path.with_suffix(".md"), path.with_suffix(".png"))


def _plot(rungs: Sequence[Mapping], speed: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.2 + 0.35 * len(rungs)), layout="constrained")
    axes = figure.add_subplot()
    names = [f"{rung['name']} (batch {rung['batch']})" for rung in rungs]
    bars = axes.barh(names, [rung[speed] for rung in rungs])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set_xlabel(speed.replace("_", " "))
    axes.margins(x=0.12)
    figure.savefig(path, dpi=120)
