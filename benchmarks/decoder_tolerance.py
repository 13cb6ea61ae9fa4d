"""Which early figure of an autoencoder predicts how well its denoiser will write: six that differ in tolerance.

python benchmarks/decoder_tolerance.py --dataset e2e --out outputs/tolerance [--root FOLDER] --steps 2000 2500
    [--minutes 2 2.5] [--json benchmarks/results/decoder_tolerance_e2e_small_cpu.json]

The autoencoders differ in noise on the decoder's latents and in the latents' width; all else is ``model=small``, and
equal. Each stage gets --steps, or instead --minutes. After stage one the decoder is measured as `train` does it
(training/decoder_tolerance.py); after stage two with latents of the denoiser, too. Then --seeds samples of --samples
texts are measured (text_quality.py). Spearman's rank correlation of each early figure with MAUVE says what it promises:
of six models it is 0.83 or more by chance in one of twenty cases (one-sided). What is in --out is not made again.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from harness import ROOT, describe_device, versions

from benchmarks.text_quality import TextQuality, quality_of
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.data import TextDataset, load_text_dataset
from ld4lg_fast.decoding import NO_RULES
from ld4lg_fast.evaluation.report import versions as metric_versions
from ld4lg_fast.training.decoder_tolerance import NOISES, TEXTS, measure_tolerance

NO_LIMIT = 10**6  # of steps: time ends a training
NO_NOISE = ("autoencoder.decoder_noise=0", "autoencoder.position_dropout=0")
AUTOENCODERS: dict[str, Sequence[str]] = {
    "no noise": NO_NOISE,
    "no noise, 8 latents of 64": (*NO_NOISE, "model.perceiver.dim_latent=64"),
    "no noise, 8 latents of 4": (*NO_NOISE, "model.perceiver.dim_latent=4"),
    "noise 0.3": ("autoencoder.decoder_noise=0.3", "autoencoder.position_dropout=0"),
    "noise 0.7": ("autoencoder.decoder_noise=0.7", "autoencoder.position_dropout=0"),
    "noise 1, dropout 0.2": ("autoencoder.decoder_noise=1", "autoencoder.position_dropout=0.2"),
}
RATE = "train.autoencoder.learning_rate=1e-3"  # long runs with 2e-3, the default of model=small, get stuck
SAMPLING = {"num_inference_steps": 50, "sampler": "dpmpp_2m"}
DECODING = DecodingConfig("nucleus", top_p=0.9, **NO_RULES)
TARGETS = ("mauve_training", "mauve", "mauve_sentence_training", "mauve_sentence")
STAGE_ONE = ("clean", *(f"noise_{share}" for share in NOISES))
READINGS = ("loss", "entropy", "margin")
RECONSTRUCTION = ("exact_match", "token_accuracy", "bleu", "distinct")


def train_stage(run: Path, stage: str, switches: Sequence[str], options: argparse.Namespace) -> float:
    """Trains one stage and returns its seconds; 0 if it is trained already."""
    place = ("autoencoder", "diffusion").index(stage)
    file = ("autoencoder/autoencoder.json", "denoiser/config.json")[place]
    if (run / file).exists():
        return 0.0
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={run}", "seed=0"]
    command += [f"train.stage={stage}", f"train.validate_every={NO_LIMIT}"]
    if place == 0:
        command += [f"dataset={options.dataset}", "model=small", "recipe=v3", RATE, *switches]
        command += [f"dataset.root={options.root}"] if options.root else []
    if options.minutes:
        command += [f"train.max_minutes={options.minutes[place]}", f"train.{stage}.steps={NO_LIMIT}"]
    else:
        command += [f"train.{stage}.steps={options.steps[place]}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return time.perf_counter() - start


def early_figures(readings: Mapping[str, Mapping[str, float]], reconstruction: Mapping) -> dict[str, float]:
    """Figures of stage one by name: of the reconstruction, of each kind of latents, and what noise costs."""
    found = {name: reconstruction[name] for name in RECONSTRUCTION}
    for kind, own in readings.items():
        found |= {f"{kind} {name}": own[name] for name in READINGS}
        if kind != "clean":
            found[f"{kind} loss above clean"] = own["loss"] - readings["clean"]["loss"]
            found[f"{kind} margin below clean"] = readings["clean"]["margin"] - own["margin"]
    return found


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 0, ties at their mean."""
    array = np.asarray(values, dtype=float)
    return ((array[:, None] > array).sum(1) + (array[:, None] >= array).sum(1) - 1) / 2


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rho; None where all values of one are equal."""
    a, b = (ranks(values) - (len(values) - 1) / 2 for values in (first, second))
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size else None


def row_of(name: str, dataset: TextDataset, quality: TextQuality, options: argparse.Namespace) -> dict:
    """Everything about one autoencoder, from its file where that is there."""
    run = options.out / name.replace(", ", "_").replace(" ", "_")
    path = run / "row.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    switches = AUTOENCODERS[name]
    seconds = {stage: train_stage(run, stage, switches, options) for stage in ("autoencoder", "diffusion")}
    pipe = TextDiffusionPipeline.from_pretrained(run)
    order = np.random.default_rng(0).permutation(len(dataset.validation))[:TEXTS]
    tolerance = measure_tolerance(pipe, dataset.validation.select(order))
    reconstruction = json.loads((run / "reconstruction.json").read_text(encoding="utf-8"))
    samples = []
    for seed in options.seeds:
        latents = pipe.sample(options.samples, seed=seed, guidance_scale=1.0, **SAMPLING).latents
        samples.append(pipe.decode(latents, DECODING, seed=seed))
    log = [json.loads(line) for line in (run / "logs" / "train.jsonl").read_text().splitlines()]
    row = {
        "name": name,
        "switches": list(switches),
        "seconds": seconds,
        "steps": {each["stage"]: each["step"] for each in log},
        "validation_loss": {e["stage"]: e["validation_loss"] for e in log if "validation_loss" in e},
        "early": early_figures({kind: tolerance[kind] for kind in STAGE_ONE}, reconstruction),
        "tolerance": tolerance,
    } | quality_of(quality, samples)
    path.write_text(json.dumps(row), encoding="utf-8")
    return row


def correlations(rows: Sequence[Mapping]) -> dict[str, dict[str, float | None]]:
    """Rank correlations of each early figure with each measure of the finished texts."""
    targets = [name for name in TARGETS if all(name in row["quality"] for row in rows)]
    return {
        figure: {
            target: rank_correlation(
                [row["early"][figure] for row in rows], [row["quality"][target]["mean"] for row in rows]
            )
            for target in targets
        }
        for figure in rows[0]["early"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=("e2e", "ag_news"), default="e2e")
    parser.add_argument("--root", type=Path, help="folder of the corpus; searched for without it")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is trained")
    parser.add_argument("--autoencoders", nargs="+", choices=AUTOENCODERS, default=list(AUTOENCODERS))
    parser.add_argument("--steps", type=int, nargs=2, default=[2000, 2500], help="of the two stages")
    parser.add_argument("--minutes", type=float, nargs=2, help="of the two stages, instead of --steps")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scoring-steps", type=int, default=1000, help="of the scoring LM")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    dataset = load_text_dataset(options.dataset, root=options.root)
    quality = TextQuality(dataset, "test", options.samples, options.out, options.scoring_steps)
    rows = []
    for name in options.autoencoders:
        rows.append(row_of(name, dataset, quality, options))
        means = {metric: f"{each['mean']:.3g}" for metric, each in rows[-1]["quality"].items()}
        print(name, means, file=sys.stderr, flush=True)
    result = {
        "rows": rows,
        "rank_correlations": correlations(rows),
        "real": quality_of(quality, [quality.held_out]),
        "settings": {
            name: str(value) for name, value in vars(options).items() if name not in ("json", "root")
        },
        "device": describe_device("cpu"),
        "versions": metric_versions() | versions(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result["rank_correlations"]))


if __name__ == "__main__":
    main()
