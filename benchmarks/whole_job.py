"""A thousand sentences from noise to text: the published code, its cheap remedies, and this library.

python benchmarks/whole_job.py [--num-samples 1000] [--seeds 0 1 2] [--systems NAME ...] [--quick]
    [--json benchmarks/results/whole_job_e2e_small_cpu_avx512.json]

All systems sample the same trained weights, those of the model that ships, on one machine in one run. The work of a
seed is cut into turns (--turn sentences), which the systems take one after the other, so that the machine's drift hits
all alike. ``seconds`` of a system are the sum of its turns for --num-samples sentences, the mean over the seeds;
``turn_seconds`` has the 20th percentile, the median and the 80th.

* ``published``: the reference's plain modules as its authors run them, 250 steps of DDPM, fp32, beam search of
  transformers' ``generate``. Recipe v3's denoiser has two things that the published code lacks; published_pipeline.py
  says how they are added.
* ``published, remedies``: the same with the fastest of SDPA, bf16 autocast, dynamic int8 and torch.compile for the
  denoiser, and of bf16 autocast and dynamic int8 for ``generate``; and ``published, remedies, nucleus``, which draws
  texts by the published code's other strategy.
* ``ours, …``: presets of this library, and a student of few steps that is distilled from the same model.

Denoising and decoding of each system run in the precision, and then with the batch size, that a short trial (at most
10 steps) finds fastest. Loading, compilation and packing of weights are not part of the seconds;
``preparation_s`` has the trial of each system, in which they happen.

MAUVE is against as many texts of the test set and as many training texts (text_quality.py says why), with 95 %
intervals over the sampling seeds; perplexity, diversity and memorization stand beside it. Rule of the headline: the
fastest of ours of which each MAUVE has an interval whose lower end is not below that of ``published``. It was fixed
before measuring for MAUVE against the test set; a first run showed that this cannot tell systems of E2E apart, and
MAUVE against training texts was added, which makes the rule stricter.

The student and the scoring LM are made once, in --work. With --json a plot is written beside the file; the last line of
stdout is one JSON.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from harness import ROOT, Timing, describe_device, versions

from benchmarks.ladder import print_ladder
from benchmarks.text_quality import MAUVES, SCORING_STEPS, TextQuality, quality_of
from benchmarks.whole_job_systems import STUDENT_STEPS, System, Systems, Turn
from ld4lg_fast.checkpoints.shipped import run_directory
from ld4lg_fast.data import load_text_dataset
from ld4lg_fast.evaluation.report import versions as metric_versions

COLUMNS = (
    *("name", "steps", "seconds", "denoise_s", "decode_s", "speedup_vs_published"),
    *("mauve_training", "mauve_sentence_training", "mauve", "perplexity", "diversity", "memorization"),
)
QUICK = {"num_samples": 24, "turn": 12, "seeds": [0], "scoring_steps": 20, "student_minutes": 0.2}


def trained_student(model: str, folder: Path, minutes: float) -> Path:
    """The run directory of the student, distilled there if it is not there yet."""
    if not (folder / "denoiser" / "config.json").exists():
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={folder}"]
        command += [f"train.distill_from={run_directory(model)}", f"train.distill_steps={STUDENT_STEPS}"]
        command += [f"train.max_minutes={minutes}", "train.diffusion.steps=5000"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return folder


def run_turns(systems: Sequence[System], options: argparse.Namespace) -> None:
    """Every system takes every turn, each time beginning with another system."""
    turns = [
        Turn(seed, first, options.turn)
        for seed in options.seeds
        for first in range(0, options.num_samples, options.turn)
    ]
    for number, turn in enumerate(turns):
        for place in range(len(systems)):
            systems[(number + place) % len(systems)].take(turn)
        print(f"turn {number + 1} of {len(turns)}", file=sys.stderr, flush=True)


def row_of(system: System, systems: Sequence[System], num_seeds: int) -> dict:
    """Seconds of a system, and how many times faster it is than each of the published ones: of the sums (``ratio``),
    and of the turns' 20th and 80th percentiles."""
    turns = [sum(parts) for parts in zip(system.denoise_s, system.decode_s, strict=True)]
    speedups = {}
    for other in systems:
        if not other.ours and other is not system:
            theirs = [sum(parts) for parts in zip(other.denoise_s, other.decode_s, strict=True)]
            spread = Timing.of([b / a for a, b in zip(turns, theirs, strict=True)])
            speedups[other.name] = {"ratio": sum(theirs) / sum(turns), "p20": spread.p20, "p80": spread.p80}
    return {
        "name": system.name,
        "ours": system.ours,
        "steps": system.steps,
        "denoiser": dict(zip(("precision", "batch_size"), system.denoiser, strict=True)),
        "decoder": dict(zip(("precision", "batch_size"), system.decoder, strict=True)),
        "seconds": sum(turns) / num_seeds,
        "denoise_s": sum(system.denoise_s) / num_seeds,
        "decode_s": sum(system.decode_s) / num_seeds,
        "turn_seconds": vars(Timing.of(turns)),
        "speedup_vs": speedups,
        "preparation_s": system.preparation_s,
    }


def lower_end(figure: Mapping) -> float:
    """Of the 95 % interval; the figure itself where there is one seed alone."""
    return figure.get("interval_95", [figure["mean"]])[0]


def headline(rows: Sequence[Mapping]) -> dict:
    """The fastest of ours that is not below ``published`` in any MAUVE, by the rule of this file's head."""
    published = next((row for row in rows if row["name"] == "published"), None)
    judged = [name for name in MAUVES if published is not None and name in published["quality"]]
    if not judged:
        return {"fastest_of_equal_quality": None, "reason": "no MAUVE of the system 'published' was measured"}
    equal = [
        row
        for row in rows
        if row["ours"]
        and all(lower_end(row["quality"][m]) >= lower_end(published["quality"][m]) for m in judged)
    ]
    if not equal:
        return {"fastest_of_equal_quality": None, "reason": "each of ours is below 'published' in some MAUVE"}
    best = min(equal, key=lambda row: row["seconds"])
    return {
        "fastest_of_equal_quality": best["name"],
        "of_equal_quality": [row["name"] for row in equal],
        "judged_by": judged,
        "seconds": {row["name"]: row["seconds"] for row in rows},
        "speedup_vs": {name: speedup["ratio"] for name, speedup in best["speedup_vs"].items()},
    }


def draw(rows: Sequence[Mapping], real: Mapping, path: Path) -> None:
    """Seconds of each system (log scale), and beside them each MAUVE with its interval."""
    from matplotlib.figure import Figure

    judged = [name for name in MAUVES if name in rows[0]["quality"]]
    figure = Figure(figsize=(6 + 3.5 * len(judged), 1.2 + 0.5 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 1 + len(judged), sharey=True, squeeze=False)[0]
    names = [row["name"] for row in rows]
    colors = ["tab:blue" if row["ours"] else "tab:gray" for row in rows]
    bars = axes[0].barh(names, [row["seconds"] for row in rows], color=colors)
    axes[0].bar_label(bars, fmt="%.3g s", padding=3)
    axes[0].set(xscale="log", xlabel="seconds, noise to text")
    axes[0].margins(x=0.25)
    axes[0].invert_yaxis()
    for axis, metric in zip(axes[1:], judged, strict=True):
        for name, row, color in zip(names, rows, colors, strict=True):
            entry = row["quality"][metric]
            low, high = entry.get("interval_95", [entry["mean"]] * 2)
            spread = [[entry["mean"] - low], [high - entry["mean"]]]
            axis.errorbar(entry["mean"], name, xerr=spread, fmt="o", capsize=3, color=color)
        for name, other in real.items():
            axis.axvline(other["quality"][metric]["mean"], linestyle=":", color="black", label=name)
        axis.set_xlabel(metric.replace("_", " "))
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, default=1000, help="sentences of a seed")
    parser.add_argument("--turn", type=int, default=100, help="sentences of a turn; divides --num-samples")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--systems", nargs="+", metavar="NAME", help="default: all")
    parser.add_argument("--model", default="e2e-small", help="a run of recipe v2 or v3 without conditions")
    parser.add_argument("--dataset", default="e2e")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs" / "whole_job", help="folder of what is kept"
    )
    parser.add_argument("--student-minutes", type=float, default=7, help="of distillation")
    parser.add_argument(
        "--scoring-steps", type=int, default=SCORING_STEPS, help="of the scoring LM's training"
    )
    parser.add_argument("--quick", action="store_true", help="a few sentences, to see that it runs")
    parser.add_argument("--json", type=Path, help="where to write the result and, beside it, the plot")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK, work=options.work / "quick")
    if options.num_samples % options.turn:
        parser.error(f"--turn {options.turn} does not divide --num-samples {options.num_samples}")
    student = partial(trained_student, options.model, options.work / "student", options.student_minutes)
    known = Systems(options.model, student)
    for name in options.systems or ():
        if name not in known.builders:
            parser.error(f"unknown system {name!r}; choose among {', '.join(map(repr, known.builders))}")
    quality = TextQuality(
        load_text_dataset(options.dataset), "test", options.num_samples, options.work, options.scoring_steps
    )
    sizes = sorted({max(1, options.turn // parts) for parts in (4, 2, 1)})
    systems = [known.build(name) for name in options.systems or known.builders]
    # A compiled network is compiled for each batch size of its own, as a user with one batch size would have it.
    with torch._dynamo.config.patch(automatic_dynamic_shapes=False, recompile_limit=64):
        for system in systems:
            system.choose(Turn(max(options.seeds) + 1, 0, options.turn), sizes)
            print(f"{system.name}: {system.denoiser}, {system.decoder}", file=sys.stderr, flush=True)
        run_turns(systems, options)
    rows = [
        row_of(system, systems, len(options.seeds)) | quality_of(quality, list(system.texts.values()))
        for system in systems
    ]
    real = {
        "real test texts": quality_of(quality, [quality.held_out]),
        "training texts": quality_of(quality, [quality.training_draw]),
    }
    print_ladder([flat(row) for row in rows], COLUMNS, f"{options.num_samples} sentences, noise to text")
    result = {
        "headline": headline(rows),
        "systems": rows,
        "real": real,
        "settings": {
            name: value for name, value in vars(options).items() if name not in ("json", "work", "systems")
        },
        "device": describe_device("cpu"),
        "versions": metric_versions() | versions(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        draw(rows, real, options.json.with_suffix(".png"))
    print(json.dumps(result["headline"]))


def flat(row: Mapping) -> dict:
    """A row of the printed table."""
    speedup = row["speedup_vs"].get("published")
    means = {name: figure["mean"] for name, figure in row["quality"].items()}
    return dict(row) | means | {"speedup_vs_published": None if speedup is None else speedup["ratio"]}


if __name__ == "__main__":
    main()
