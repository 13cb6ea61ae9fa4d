"""Minutes of training until texts reach a MAUVE: the published recipe (v2) against v3, same sizes, same machine.

python benchmarks/time_to_quality.py --out outputs/time_to_quality [--minutes 1 2 4 8] [--quick]
    [--json benchmarks/results/time_to_quality_e2e_small_cpu_avx512.json]

Each point of a curve is a training of its own of both stages that ends after so many minutes, because learning rate
and EMA are scheduled for the whole of a training. Both recipes are trained by this library, in turns, with
``model=small`` and everything else equal, so that the recipes alone are compared; what the published code's own speed
adds is measured by train_throughput.py. Finished trainings in --out are not repeated.

Each model samples --samples texts of 25 steps with each sampling seed, decoded as its recipe says (v2: beam search,
v3: nucleus sampling), against as many validation texts, by the scoring models of text_quality.py. One training seed
each: intervals are of sampling. The rule of the headline, fixed before measuring: the level is the highest mean MAUVE
of any v2 training, and a recipe's time is its shortest training that reaches it; ``at_most`` says that no shorter one
was tried. The last line of stdout is one JSON.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import ROOT, describe_device, versions

from benchmarks.text_quality import MAUVES, SCORING_STEPS, TextQuality, quality_of
from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import load_text_dataset
from ld4lg_fast.evaluation.report import versions as metric_versions

RECIPES = ("v2", "v3")
SECONDS = "training_seconds.json"
NO_LIMIT = 10**6  # of steps: time ends a training
QUICK = {"minutes": [0.2, 0.4], "samples": 24, "seeds": [0], "scoring_steps": 20}


def train(recipe: str, minutes: float, options: argparse.Namespace) -> Path:
    """The run directory of a recipe's training, trained if it is not there yet."""
    run = options.out / f"{recipe}_{minutes:g}_minutes"
    if (run / SECONDS).exists():
        return run
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={run}", f"recipe={recipe}"]
    command += [f"dataset={options.dataset}", f"model={options.model}", f"train.max_minutes={minutes}"]
    command += [f"train.{stage}.steps={NO_LIMIT}" for stage in ("autoencoder", "diffusion")]
    command += [f"train.validate_every={NO_LIMIT}", "seed=0"]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    (run / SECONDS).write_text(json.dumps(time.perf_counter() - start))
    return run


def point(recipe: str, minutes: float, quality: TextQuality, options: argparse.Namespace) -> dict:
    """A training's quality: one point of its recipe's curve."""
    run = train(recipe, minutes, options)
    pipe = TextDiffusionPipeline.from_pretrained(run)
    samples = [pipe(options.samples, quality="balanced", seed=seed).texts for seed in options.seeds]
    facts = {
        "recipe": recipe,
        "minutes": minutes,
        "seconds_with_start": json.loads((run / SECONDS).read_text()),
    }
    return facts | {"decoding": pipe.decoding.strategy} | quality_of(quality, samples)


def times_to(level: float, metric: str, curves: Mapping[str, Sequence[Mapping]]) -> dict[str, dict]:
    """Each recipe's shortest training with a mean ``metric`` of at least ``level``; ``minutes`` None: none has."""
    found = {}
    for recipe, curve in curves.items():
        ordered = sorted(curve, key=lambda each: each["minutes"])
        places = [i for i, each in enumerate(ordered) if each["quality"][metric]["mean"] >= level]
        minutes = ordered[places[0]]["minutes"] if places else None
        found[recipe] = {"minutes": minutes, "at_most": bool(places) and places[0] == 0}
    return found


def headline(curves: Mapping[str, Sequence[Mapping]]) -> dict[str, dict]:
    """By MAUVE: v2's best as the level, each recipe's time to it, and v2's time over v3's."""
    found = {}
    for metric in MAUVES:
        if not all(metric in each["quality"] for curve in curves.values() for each in curve):
            continue
        level = max(each["quality"][metric]["mean"] for each in curves["v2"])
        times = times_to(level, metric, curves)
        v2, v3 = (times[recipe]["minutes"] for recipe in RECIPES)
        found[metric] = {"level": level, "times": times, "speedup": None if v3 is None else v2 / v3}
    return found


def draw(curves: Mapping[str, Sequence[Mapping]], path: Path) -> None:
    """A panel a MAUVE: against minutes of training, with intervals over the sampling seeds."""
    from matplotlib.figure import Figure

    judged = [name for name in MAUVES if name in curves["v2"][0]["quality"]]
    figure = Figure(figsize=(5 * len(judged), 4), layout="constrained")
    axes = figure.subplots(1, len(judged), squeeze=False)[0]
    for axis, metric in zip(axes, judged, strict=True):
        for recipe, curve in curves.items():
            figures = [each["quality"][metric] for each in curve]
            means = [each["mean"] for each in figures]
            ends = [each.get("interval_95", [each["mean"]] * 2) for each in figures]
            below, above = (
                [abs(end[k] - mean) for end, mean in zip(ends, means, strict=True)] for k in (0, 1)
            )
            minutes = [each["minutes"] for each in curve]
            axis.errorbar(
                minutes, means, yerr=[below, above], marker="o", capsize=3, label=f"recipe {recipe}"
            )
        axis.set(xscale="log", xlabel="minutes of training", ylabel=metric.replace("_", " "))
        axis.legend()
    figure.savefig(path, dpi=120)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "outputs" / "time_to_quality", help="folder of the runs"
    )
    parser.add_argument("--dataset", default="e2e")
    parser.add_argument("--model", default="small")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 2, 4, 8], help="of each training")
    parser.add_argument("--samples", type=int, default=1000, help="texts of a sampling seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of sampling")
    parser.add_argument(
        "--scoring-steps", type=int, default=SCORING_STEPS, help="of the scoring LM's training"
    )
    parser.add_argument(
        "--quick", action="store_true", help="short trainings and few texts, to see that it runs"
    )
    parser.add_argument("--json", type=Path, help="where to write the result and, beside it, the plot")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK, out=options.out / "quick")
    options.out = options.out.absolute()
    dataset = load_text_dataset(options.dataset)
    quality = TextQuality(dataset, "validation", options.samples, options.out, options.scoring_steps)
    curves: dict[str, list[dict]] = {recipe: [] for recipe in RECIPES}
    for minutes in sorted(options.minutes):
        for recipe, curve in curves.items():
            curve.append(point(recipe, minutes, quality, options))
            means = {name: round(figure["mean"], 3) for name, figure in curve[-1]["quality"].items()}
            print(f"{recipe}, {minutes:g} minutes: {means}", file=sys.stderr, flush=True)
    result = {
        "headline": headline(curves),
        "curves": curves,
        "real": {"training texts": quality_of(quality, [quality.training_draw])},
        "settings": {name: value for name, value in vars(options).items() if name not in ("json", "out")},
        "device": describe_device("cpu"),
        "versions": metric_versions() | versions(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if result["headline"]:
            draw(curves, options.json.with_suffix(".png"))
    print(json.dumps(result["headline"]))


if __name__ == "__main__":
    main()
