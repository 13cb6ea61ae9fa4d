"""What each ingredient of recipe v3 is worth: equal time or steps, equal data, several seeds.

python benchmarks/recipe_ablation.py --out outputs/ablation --steps 2000 3000 --seeds 0 1 2 --json RESULT.json

Every variant is recipe v2, v3, or v3 with one switch set otherwise. For each seed it trains the autoencoder and the
denoiser (variants with the same autoencoder share it) with scripts/train.py, samples with few steps and with many,
turns each latent into text in every way of `DECODINGS`, and measures the texts as scripts/test.py does, against real
texts of the validation or test set. Beside them stand others of these, training texts (all that a model of these can
reach), and an autoregressive model with the same tokenizer, trained on them for as long as the longest variant,
start-up and all.
``--autoencoder RUN`` trains all denoisers on the latents of one finished run instead, where their differences show,
adds ``latent_distance``, that of sampled latents to training texts', and leaves the autoregressive model out.

No model of the hub is needed: the judge of MAUVE and perplexity is a small language model of the same corpus with a
seed of its own, so these two figures compare rows of one table and nothing else. ``unlikely`` is the share of texts
whose perplexity is above that of 99 % of real held-out texts. ``mauve_training`` compares with training texts: where
the validation set is of another kind, as E2E's, all models are far from it, and this is what tells them apart (a model
that repeats its training texts excels in it, so read it beside ``memorization``).
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from harness import ROOT, describe_device, versions
from torch import Tensor
from transformers import GPT2LMHeadModel, PreTrainedTokenizerBase

from benchmarks.corpus_model import sample_corpus_model, train_corpus_model
from benchmarks.recipe_variants import VARIANTS, split_stages
from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints.run_directory import STAGE_ONE_RESULTS, RunDirectory
from ld4lg_fast.data import TextDataset, load_text_dataset, train_bpe_tokenizer
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.confidence import summary
from ld4lg_fast.evaluation.metrics import evaluate_texts
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.options import EvaluationSettings
from ld4lg_fast.evaluation.perplexity import text_perplexities
from ld4lg_fast.evaluation.report import versions as metric_versions

JUDGE_SEED = 1_000_003
AUTOREGRESSIVE_BATCH = 16  # as the autoencoder's of model=small; better than 64 in five minutes, too
SECONDS = "training_seconds.json"
FIGURES = (
    *("latent_distance", "mauve", "mauve_training", "perplexity", "unlikely", "diversity", "memorization"),
    "unique_words",
)

TOP_P = 0.6, 0.8, 0.9, 0.95, 0.98, 1.0  # of the autoregressive model, too
DECODINGS = {
    "beam": DecodingConfig(),  # the paper's
    "published nucleus": DecodingConfig("nucleus", top_p=0.95),  # under the rules of its beams
    **{f"nucleus {top_p:g}": DecodingConfig("nucleus", top_p=top_p, **NO_RULES) for top_p in TOP_P},
    "temperature 1.03": DecodingConfig("nucleus", top_p=1.0, temperature=1.03, **NO_RULES),
}


def latent_distance(latents: Tensor, references: Tensor) -> float:
    """Squared Fréchet distance of Gaussians with the means and covariances of latents (B, N, d), as a share of the
    references' variance: 1 is that of their mean alone (Dowson and Landau 1982)."""
    flat = [of.flatten(1).double() for of in (latents, references)]
    means = [of.mean(dim=0) for of in flat]
    roots = [
        torch.linalg.qr((of - mean) / (len(of) - 1) ** 0.5, mode="r").R
        for of, mean in zip(flat, means, strict=True)
    ]  # R.T @ R is a covariance
    first, second = (root.square().sum() for root in roots)
    common = torch.linalg.matrix_norm(roots[0] @ roots[1].T, "nuc")
    return (((means[0] - means[1]).square().sum() + first + second - 2 * common) / second).item()


class Ablation:
    """Trains, samples and measures the variants in ``options.out``; what is there already is kept."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, options.out
        self.dataset: TextDataset = load_text_dataset(options.dataset, root=options.root)
        unseen = getattr(self.dataset, options.split).texts
        self.references, self.held_out = self._two_draws(unseen)
        self.training, self.more_training = self._two_draws(self.dataset.train.texts)
        self.training_latents: Tensor | None = None
        self.models, self.cache = ScoringModels(), ArrayCache(self.out / "cache")
        self.judge = self._judge()
        real = text_perplexities(unseen[:2000], self.models.language_model(self.judge))
        self.limit, self.judge_perplexity = float(np.quantile(real, 0.99)), float(real.mean())

    def _two_draws(self, texts: Sequence[str]) -> tuple[list[str], list[str]]:
        """What texts are compared with, and a row of the table: two draws without overlap.

        Corpora are sorted, and E2E's test set is of another kind than the rest, so that the first texts of a split
        are no fair sample of it.
        """
        samples = self.options.samples
        if len(texts) < 2 * samples:
            raise SystemExit(
                f"--samples {samples} needs {2 * samples} texts of each split, there are {len(texts)}."
            )
        order = np.random.default_rng(JUDGE_SEED).permutation(len(texts))[: 2 * samples]
        drawn = [texts[index] for index in order]
        return drawn[:samples], drawn[samples:]

    def _judge(self) -> str:
        folder = self.out / "judge"
        if not (folder / "config.json").exists():
            texts = self.dataset.train.texts
            tokenizer = train_bpe_tokenizer(texts, 1024)
            model = train_corpus_model(texts, tokenizer, steps=self.options.judge_steps, seed=JUDGE_SEED)
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
        return str(folder)

    def _train(self, run: Path, stage: str, switches: Sequence[str], seed: int) -> None:
        options, start = self.options, time.perf_counter()
        earlier = _training_seconds(run)
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={run}", f"seed={seed}"]
        command += [f"train.stage={stage}", self._budget(stage), *switches, *options.overrides]
        if stage == "autoencoder":
            command += [f"dataset={options.dataset}", f"model={options.model}", "recipe=v3"]
            command += [f"dataset.root={options.root}"] if options.root else []
        subprocess.run(command, check=True, cwd=ROOT)
        (run / SECONDS).write_text(json.dumps(earlier + time.perf_counter() - start))

    def run_of(self, name: str, seed: int) -> Path:
        """The run directory of a variant, trained if it is not there yet."""
        first, second = split_stages(VARIANTS[name])
        run = self.out / f"{name.replace(', ', '_').replace(' ', '_')}_seed{seed}"
        if (run / "denoiser" / "config.json").exists():
            return run
        base = self.options.autoencoder or self._trained_autoencoder(first, seed)
        shutil.rmtree(run, ignore_errors=True)
        RunDirectory(run).copy(base, ("config.yaml", *STAGE_ONE_RESULTS, SECONDS))
        self._train(run, "diffusion", second, seed)
        return run

    def _trained_autoencoder(self, switches: Sequence[str], seed: int) -> Path:
        """The run directory of an autoencoder with these switches, trained if it is not there yet."""
        key = "_".join(sorted(s.replace("=", "_").removeprefix("autoencoder.") for s in switches)) or "recipe"
        base = self.out / "autoencoders" / f"{key}_seed{seed}"
        if not (base / "autoencoder" / "autoencoder.json").exists():
            self._train(base, "autoencoder", switches, seed)
        return base

    def _budget(self, stage: str) -> str:
        options, place = self.options, ("autoencoder", "diffusion").index(stage)
        if options.minutes:
            return f"train.max_minutes={options.minutes[place]}"
        return f"train.{stage}.steps={options.steps[place]}"

    def _autoregressive_texts(
        self, seed: int, seconds: float, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, list[str]]:
        """Texts of a seed's autoregressive model by the row's name, trained for so long if it is not there yet."""
        folder = self.out / f"autoregressive_seed{seed}"
        if (folder / "config.json").exists():
            model = GPT2LMHeadModel.from_pretrained(folder, trust_remote_code=False).eval()
        else:
            texts = self.dataset.train.texts
            budget = {"steps": 10**9, "max_seconds": seconds, "batch_size": AUTOREGRESSIVE_BATCH}
            model = train_corpus_model(texts, tokenizer, seed=seed, **budget)
            model.save_pretrained(folder)
        return {
            f"autoregressive, nucleus {top_p:g}": sample_corpus_model(
                model, tokenizer, self.options.samples, seed, top_p=top_p
            )
            for top_p in TOP_P
        }

    def measure(self, texts: Sequence[str]) -> dict[str, float]:
        """All `FIGURES` of texts, as far as their packages are installed."""
        settings = EvaluationSettings(
            mauve_model=self.judge, perplexity_model=self.judge, bertscore_model=None
        )
        shared = {"settings": settings, "models": self.models, "cache": self.cache}
        figures = evaluate_texts(texts, self.references, self.dataset.train.texts, **shared)["metrics"]
        to_training = evaluate_texts(texts, self.training, **shared)["metrics"]
        if "mauve" in to_training:
            figures["mauve_training"] = to_training["mauve"]
        scores = text_perplexities([t for t in texts if t], self.models.language_model(self.judge))
        return figures | {"unlikely": float((scores > self.limit).mean())}

    def compared_latents(self, pipe: TextDiffusionPipeline, those: Tensor | list[str]) -> dict[str, float]:
        """``latent_distance`` of latents, or of texts', where all denoisers share the autoencoder; else nothing."""
        if not self.options.autoencoder:
            return {}
        if self.training_latents is None:
            self.training_latents = pipe.encode(self.training)[0]
        latents = those if isinstance(those, Tensor) else pipe.encode(those)[0]
        return {"latent_distance": latent_distance(latents, self.training_latents)}

    def rows(self) -> dict[str, dict]:
        """Figures of every row by its name: a summary over the seeds each, and the first seed's first texts."""
        options, found, texts, seconds = self.options, {}, {}, 0.0

        def keep(row: str, sampled: list[str], **further: float) -> None:
            found.setdefault(row, []).append(self.measure(sampled) | further)
            texts.setdefault(row, sampled[:16])

        for seed in options.seeds:
            for name in options.variants:
                run = self.run_of(name, seed)
                pipe = TextDiffusionPipeline.from_pretrained(run)
                seconds = max(seconds, _training_seconds(run))
                for steps in options.sampling_steps:
                    latents = pipe.sample(
                        options.samples, sampler="unipc", num_inference_steps=steps, seed=seed
                    ).latents
                    further = self.compared_latents(pipe, latents)
                    for decoding in options.decodings:
                        sampled = pipe.decode(latents, DECODINGS[decoding], seed=seed)
                        keep(f"{name}, {steps} steps, {decoding}", sampled, **further)
            if options.autoencoder:
                continue
            given = options.autoregressive_seconds or seconds
            autoregressive = self._autoregressive_texts(seed, given, pipe.autoencoder.tokenizer)
            for row, sampled in autoregressive.items():
                keep(row, sampled)
        for row, real in (
            (f"real {options.split} texts", self.held_out),
            ("real training texts", self.more_training),
        ):
            keep(row, real, **self.compared_latents(pipe, real))
        return {
            row: {
                "figures": {
                    k: summary([r[k] for r in results]) for k in FIGURES if all(k in r for r in results)
                },
                "texts": texts[row],
            }
            for row, results in found.items()
        }


def _training_seconds(run: Path) -> float:
    """How long a run directory of an ablation has been trained."""
    return json.loads((run / SECONDS).read_text()) if (run / SECONDS).exists() else 0.0


def draw(rows: dict[str, dict], path: Path) -> None:
    """One panel a figure, one bar a row, with 95 % intervals where there are several seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in FIGURES if any(name in row["figures"] for row in rows.values())]
    figure, axes = pyplot.subplots(
        1, len(names), figsize=(3 * len(names), 0.3 * len(rows) + 1.5), sharey=True
    )
    for name, axis in zip(names, np.atleast_1d(axes), strict=True):
        for place, row in enumerate(rows.values()):
            if (entry := row["figures"].get(name)) is not None:
                low, high = entry.get("interval_95", [entry["mean"]] * 2)
                axis.barh(place, entry["mean"], xerr=[[entry["mean"] - low], [high - entry["mean"]]])
        axis.set_title(name)
    np.atleast_1d(axes)[0].set_yticks(range(len(rows)), list(rows))
    np.atleast_1d(axes)[0].invert_yaxis()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of runs; finished ones are not trained again"
    )
    parser.add_argument("--dataset", default="e2e")
    parser.add_argument("--root", help="folder of the corpus, where it is not found by itself")
    parser.add_argument("--model", default="small")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, metavar="VARIANT", help="default: all that can be trained"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--steps", type=int, nargs=2, metavar=("AUTOENCODER", "DENOISER"))
    budget.add_argument("--minutes", type=float, nargs=2, metavar=("AUTOENCODER", "DENOISER"))
    parser.add_argument(
        "--overrides", nargs="*", default=[], help="further options of scripts/train.py, for all"
    )
    parser.add_argument(
        "--autoencoder", type=Path, metavar="RUN", help="train denoisers alone, on this run's"
    )
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument(
        "--split", choices=("validation", "test"), default="validation", help="texts to compare with"
    )
    parser.add_argument("--sampling-steps", type=int, nargs="+", default=[8, 25, 100])
    parser.add_argument("--decodings", nargs="+", choices=DECODINGS, default=list(DECODINGS))
    parser.add_argument("--judge-steps", type=int, default=1500)
    parser.add_argument(
        "--autoregressive-seconds", type=float, help="instead of the longest variant's training"
    )
    parser.add_argument("--json", type=Path, help="where to write the result and, beside it, the plot")
    options = parser.parse_args(arguments)
    options.out = options.out.absolute()
    others = [name for name in VARIANTS if options.autoencoder and split_stages(VARIANTS[name])[0]]
    options.variants = options.variants or [name for name in VARIANTS if name not in others]
    if refused := sorted(set(options.variants) & set(others)):
        parser.error(
            f"{', '.join(refused)} needs another autoencoder than that of --autoencoder; leave one out"
        )
    ablation = Ablation(options)
    rows = ablation.rows()
    for row, result in rows.items():
        print(
            f"{row:45}",
            *(f"{name} {entry['mean']:.3f}" for name, entry in result["figures"].items()),
            sep="  ",
        )
    if options.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        for place in ("out", "json", "root", "autoencoder"):
            settings.pop(place)
        result = {
            "rows": rows,
            "judge": {
                "perplexity_of_real_texts": ablation.judge_perplexity,
                "unlikely_above": ablation.limit,
            },
            "switches": {name: list(VARIANTS[name]) for name in options.variants},
            "settings": settings,
            "device": describe_device("cuda" if torch.cuda.is_available() else "cpu"),
            "versions": metric_versions() | versions(),
        }
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        draw(rows, options.json.with_suffix(".png"))
        print(options.json)


if __name__ == "__main__":
    main()
