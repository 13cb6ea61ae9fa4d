"""A ladder of rungs, each timed in turns with the others; on the console, as JSON, a Markdown table and a plot."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import can_plot, describe_device, versions
from rich.console import Console
from rich.table import Table


@dataclass
class Rung:
    """A way to do the same work: ``precision`` says which remedies it competes with, ``ours`` whether it is one."""

    name: str
    precision: str
    ours: bool
    run: Callable[[], Any]


def announce(rung: Rung) -> None:
    """Says what takes long before it starts."""
    if "compile" in rung.name:
        print(f"{rung.name}: compiling, which takes from half a minute to some minutes …", flush=True)


LEGENDS = {
    "batch": "samples or texts at once",
    "denoise_ms_per_step": "milliseconds of one sampling step of the whole batch, median over the rounds",
    "decode_ms_per_sample": "milliseconds from one sample's latents to its text by beam search; published: generate of "
    "transformers in fp32",
    "samples_per_s": "sampling with as many steps as ran and decoding; in training texts a second",
    "speedup_vs_published": "times as fast as the published code in fp32, in the same run",
    "speedup_vs_remedies": "times as fast as the best of the published rungs of the same precision",
    "share_of_ceiling": "FLOPs of the published network over the time, as a share of the rate of one large matmul of "
    "torch in the rung's precision, measured in the same run",
    "share_of_bf16_ceiling": "the same as a share of the bf16 matmul's rate, so that precisions can be compared",
    "mfu": "FLOPs of our training step over the time, as a share of the rate of one large matmul in the precision",
    "added_peak_mib": "memory that one call needs at its peak beyond what was taken before it, MiB; no weights",
    "time_to_first_s": "the first call of all, with compilation and packing of weights, and its decoding, seconds",
    "first_call_s": "the first call of all, with compilation, seconds",
    "drift": "what the precision does to latents of the trained model that ships: root mean square of the difference "
    "from fp32 over that of the fp32 latents",
    "tokens_changed": "share of that model's greedily decoded tokens that differ from those of fp32",
    "paper_hours": "hours for the paper's number of texts at this rate",
}


def legend(columns: Sequence[str]) -> list[str]:
    """A line for each of the columns that `LEGENDS` explains."""
    return [f"{name.replace('_', ' ')}: {LEGENDS[name]}" for name in columns if name in LEGENDS]


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
    """A figure with three digits or more, or a dash where nothing was measured."""
    if value is None:
        return "–"
    if isinstance(value, float) and abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def print_ladder(rungs: Sequence[Mapping], columns: Sequence[str], title: str) -> None:
    table = Table(title=title)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "name" else "right")
    for rung in rungs:
        table.add_row(*(cell(rung.get(column)) for column in columns))
    console = Console()
    (console if console.is_terminal else Console(width=180)).print(table)
    print(*legend(columns), sep="\n")


def write_ladder(result: Mapping, columns: Sequence[str], speed: str, path: Path) -> None:
    """Writes ``path`` (JSON), and beside it a Markdown table of the columns and a plot of the column ``speed``.

    Where nothing was compared with, the plot has samples a second.
    """
    rungs = result["rungs"]
    speed = "samples_per_s" if rungs[0][speed] is None else speed
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(cell(rung.get(column)) for column in columns) for rung in rungs]
    table = "".join(f"| {line} |\n" for line in lines)
    path.with_suffix(".md").write_text(table + "".join(f"\n{line}\n" for line in legend(columns)))
    print(path, path.with_suffix(".md"))
    if can_plot():
        _plot(rungs, speed, path.with_suffix(".png"))


def end_with(
    result: dict, columns: Sequence[str], rates: Mapping[str, float], device: str, path: Path | None
) -> None:
    """The end of a ladder of networks: ceilings, device and versions join ``result``, which `write_ladder` writes.

    Args:
        rates: FLOP/s of one large matmul in each precision.

    Raises:
        SystemExit: rungs failed; the message has their errors.
    """
    result["ceilings"] = {f"product_tflop_per_s_{name}": rate / 1e12 for name, rate in rates.items()}
    result |= {"device": describe_device(device), "versions": versions()}
    if path:
        write_ladder(result, columns, "speedup_vs_published", path)
    if result["errors"]:
        raise SystemExit("\n".join(result["errors"]))


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
