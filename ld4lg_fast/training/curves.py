"""Plots the learning curves of a run."""

from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

from ld4lg_fast.checkpoints.files import write_atomically
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.metrics_log import read_log


def draw_curves(log: Path, picture: Path) -> None:
    """Plots loss, validation loss and gradient norm of ``train.jsonl`` as PNG; prints a hint without matplotlib."""
    if find_spec("matplotlib") is None:
        console.print("No learning curves were drawn: pip install matplotlib.")
        return
    from matplotlib.figure import Figure

    records = read_log(log)
    stages = list(dict.fromkeys(record["stage"] for record in records))
    figure = Figure(figsize=(10, 3.5 * len(stages)), layout="constrained")
    for row, stage in zip(figure.subplots(len(stages), 2, squeeze=False), stages, strict=True):
        mine = [record for record in records if record["stage"] == stage]
        for axes, names in zip(row, (("loss", "validation_loss"), ("grad_norm",)), strict=True):
            for name in names:
                points = [(record["step"], record[name]) for record in mine if name in record]
                if points:
                    marker = "." if name == "validation_loss" else ""  # shows a single point
                    label = name.replace("_", " ")
                    axes.plot(*zip(*points, strict=True), label=label, linewidth=1, marker=marker)
                    axes.legend()
            axes.set(title=stage, xlabel="step", yscale="log")
    drawn = BytesIO()
    figure.savefig(drawn, dpi=120)
    write_atomically(picture, drawn.getvalue())
