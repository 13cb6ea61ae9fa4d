"""Exported graphs in ONNX Runtime beside PyTorch: denoising, decoding, cold start, size, memory, differences.

python benchmarks/onnx_throughput.py [--config small|bart-base] [--run RUN_DIR] [--batch N] [--rounds N] [--folders DIR]
    [--json FILE]

Random weights, or with --run those of a trained run, which amplify no rounding. All ways to do a thing run in turns on
the same latents, with as many threads as PyTorch has. Decoding has a fixed length, so that all do the same steps;
``transformers`` is its ``generate``, ``pytorch`` this library's own path. ``latent_difference`` is the largest from
that path in float32, ``latent_difference_from_eager`` from plain PyTorch in float32, ``latent_error`` in float64. With
--folders the exports are kept in DIR, and taken from there the next time; with --json a plot is written, too.
"""

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import can_plot, describe_device, interleaved, versions
from transformers.modeling_outputs import BaseModelOutput

from benchmarks import language_models
from benchmarks.paper_models import V2_RECIPE
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts, train_bpe_tokenizer
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime import OnnxTextDiffusion
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

SIZES = {
    "small": {
        "perceiver": {"num_latents": 8, "dim_latent": 32, "depth": 1},
        "denoiser": {"dim": 192, "depth": 6, "num_dense_connections": 0},
    },
    "bart-base": {
        "perceiver": {"num_latents": 32, "dim_latent": 64, "depth": 3},
        "denoiser": {"dim": 768, "depth": 12, "num_dense_connections": 3},
    },
}
PRECISIONS = ("float32", "int8")  # of the exported folders
PYTORCH = {"pytorch float32": None, "pytorch int8": "int8"}
BASE = "pytorch float32"
LENGTH = 32
STEPS = 4
PAUSE = 1.0  # seconds before each timing: threads of onnxruntime wait actively for a while after their work
SAMPLING = {"sampler": "dpmpp_2m", "seed": 0}


def make_pipeline(config: str) -> TextDiffusionPipeline:
    """A pipeline of the config's sizes with random weights that make texts differ."""
    torch.manual_seed(0)
    sizes = SIZES[config]
    dim = language_models.SIZES[config]["d_model"]
    tokenizer = train_bpe_tokenizer(generate_demo_texts(2000), vocab_size=1024)
    lm = language_models.random_bart(config, max_position_embeddings=128, init_std=dim**-0.5)
    perceiver = Perceiver(PerceiverConfig(dim_lm=dim, max_len=64, **sizes["perceiver"]))
    latents = {"dim_latent": perceiver.config.dim_latent, "max_len": perceiver.config.num_latents}
    model = LatentDiffusion.create(V2_RECIPE, sizes["denoiser"] | latents)
    with torch.no_grad():
        for name, parameter in model.denoiser.named_parameters():
            if "modulation" in name or "output_proj" in name:  # initialised to zero
                parameter.normal_(std=0.02)
    return TextDiffusionPipeline(LanguageAutoencoder(lm, tokenizer, perceiver, 64, True), model)


@torch.no_grad()
def generate_with_transformers(pipe: TextDiffusionPipeline, latents: torch.Tensor, beams: int) -> list[str]:
    """Texts by ``generate`` under the paper's rules."""
    states = pipe.autoencoder.decode_states(latents)
    tokens = pipe.autoencoder.lm.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=torch.ones(states.shape[:2], dtype=torch.long),
        num_beams=beams,
        max_length=LENGTH,
        min_length=LENGTH,
        no_repeat_ngram_size=3,
        repetition_penalty=1.2,
        do_sample=False,
    )
    return pipe.autoencoder.decode_text(tokens.tolist())


def decoders(
    pipe: TextDiffusionPipeline, models: dict[str, OnnxTextDiffusion], latents: torch.Tensor, strategy: str
) -> dict[str, Callable[[], list[str]]]:
    """Ways to make texts of latents, by name."""
    limits = {"max_length": LENGTH, "min_length": LENGTH}
    beams = 4 if strategy == "beam" else 1
    array = latents.numpy()
    ways = {"transformers": lambda: generate_with_transformers(pipe, latents, beams)}
    for name, precision in PYTORCH.items():
        config = DecodingConfig(strategy, precision=precision, **limits)
        ways[name] = lambda config=config: pipe.decode(latents, config)
    for precision, model in models.items():
        rules = model.rules(strategy=strategy, **limits)
        ways[f"onnx {precision}"] = lambda model=model, rules=rules: model.decode(array, rules=rules)
    return ways


def denoisers(
    pipe: TextDiffusionPipeline, models: dict[str, OnnxTextDiffusion], batch: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to sample latents, by name."""
    ways: dict[str, Callable[[], np.ndarray]] = {
        name: lambda precision=precision: pipe.sample(
            batch, num_inference_steps=STEPS, precision=precision, **SAMPLING
        ).latents.numpy()
        for name, precision in PYTORCH.items()
    }
    for precision, model in models.items():
        ways[f"onnx {precision}"] = lambda model=model: model.sample(
            np.arange(batch), num_inference_steps=STEPS, **SAMPLING
        )[0]
    return ways


def cold_start(folder: Path) -> dict:
    """Seconds from a fresh interpreter to the first sentence of 25 steps, and the most memory it took (MiB)."""
    code = (
        "import runpy, sys, time; start = time.perf_counter(); folder = sys.argv[1]; "
        "sys.path.insert(0, folder); "
        "sys.argv = ['generate.py', '--num-samples', '1', '--num-inference-steps', '25', '--sampler', 'dpmpp_2m']; "
        "runpy.run_path(folder + '/generate.py', run_name='__main__'); "
        "seconds = time.perf_counter() - start; "
        # Not getrusage, whose maximum is that of the process which started this one.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(seconds, int(peak.split()[1]) / 1024)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, encoding="utf-8", check=True
        ).stdout.split()[-2:]
        for _ in range(3)
    ]
    return {
        "cold_start_s": sorted(float(run[0]) for run in runs)[1],
        "peak_rss_mib": max(float(run[1]) for run in runs),
    }


def plain_latents(pipe: TextDiffusionPipeline, batch: int, dtype: torch.dtype) -> np.ndarray:
    """The latents of `denoisers` as plain PyTorch computes them in ``dtype``."""
    pipe = copy.deepcopy(pipe).to(dtype=dtype)
    with use_backend("reference"):
        return pipe.sample(batch, num_inference_steps=STEPS, **SAMPLING).latents.numpy()


def export_all(config: str, run: Path | None, place: Path) -> tuple[TextDiffusionPipeline, dict[str, Path]]:
    """The pipeline of ``run``, or a random one in ``place / "run"``, and the exported folder of each precision, with
    what its validation told beside it."""
    if run is None and not (run := place / "run").exists():
        make_pipeline(config).save_pretrained(run)
    folders = {name: place / name for name in PRECISIONS}
    for name, folder in folders.items():
        if not folder.exists():
            told: list[str] = []
            export_run(run, folder, name, say=told.append)
            (place / f"{name}.told.json").write_text(json.dumps(told))
    return TextDiffusionPipeline.from_pretrained(run), folders


def measure(config: str, run: Path | None, place: Path, batch: int, rounds: int) -> dict:
    """All figures of a run or of a config's random one, exported to ``place``."""
    pipe, folders = export_all(config, run, place)
    threads = torch.get_num_threads()
    told = {name: json.loads((place / f"{name}.told.json").read_text()) for name in folders}
    result: dict = {"validation": told, "folders": {}, "seconds": {}}
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        result["folders"][name] = {"bytes": size} | cold_start(folder)
    models = {name: OnnxTextDiffusion(folder, threads=threads) for name, folder in folders.items()}
    sampling = denoisers(pipe, models, batch)
    latents = {name: way() for name, way in sampling.items()}
    exact = plain_latents(pipe, batch, torch.float64)
    eager = plain_latents(pipe, batch, torch.float32)
    both = latents | {"eager float32": eager}
    references = {
        "latent_difference": latents[BASE],
        "latent_difference_from_eager": eager,
        "latent_error": exact,
    }
    for key, wanted in references.items():
        result[key] = {name: float(np.abs(got - wanted).max()) for name, got in both.items()}
    result["largest_latent"] = float(np.abs(exact).max())
    start = torch.from_numpy(latents[BASE])
    tasks = {f"{STEPS} sampling steps": sampling}
    tasks |= {name: decoders(pipe, models, start, name) for name in ("greedy", "beam")}
    for task, ways in tasks.items():
        timings = interleaved(ways, rounds=rounds, round_seconds=0, before=lambda _: time.sleep(PAUSE))
        result["seconds"][task] = {
            name: {"median": timing.median, "p20": timing.p20, "p80": timing.p80}
            for name, timing in timings.items()
        }
    return result


def plot(result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = result["seconds"]
    names = list(dict.fromkeys(name for ways in tasks.values() for name in ways))
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    for place, name in enumerate(names):
        bars = {
            group: ways[BASE]["median"] / ways[name]["median"]
            for group, ways in enumerate(tasks.values())
            if name in ways
        }
        spots = [group + place * 0.8 / len(names) for group in bars]
        axes.bar(spots, bars.values(), 0.8 / len(names), label=name)
    axes.set_xticks([group + 0.3 for group in range(len(tasks))], tasks)
    axes.set_ylabel(f"times {BASE}")
    axes.set_title(f"{result['config']}, {result['batch']} texts, {result['device']['threads']} threads")
    axes.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--config", choices=SIZES, default="small")
    model.add_argument("--run", type=Path, help="a trained run directory instead of random weights")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--folders", type=Path, help="where exported folders are kept and found")
    parser.add_argument("--json", type=Path, help="where to write the result; a plot comes beside it")
    options = parser.parse_args()
    config = options.run.name if options.run else options.config
    result = {"config": config, "batch": options.batch, "tokens": LENGTH, "rounds": options.rounds}
    result |= {"device": describe_device("cpu"), "versions": versions()}
    with tempfile.TemporaryDirectory() as temporary:
        place = options.folders or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        result |= measure(options.config, options.run, place, options.batch, options.rounds)
    for task, ways in result["seconds"].items():
        for name, timing in ways.items():
            gain = ways[BASE]["median"] / timing["median"]
            print(f"{task:>18} {name:>15} {timing['median']:8.3f} s, {gain:5.2f} times {BASE}")
    for name, folder in result["folders"].items():
        print(
            f"{name}: {folder['bytes'] / 2**20:.0f} MiB, first sentence after {folder['cold_start_s']:.1f} s, "
            f"{folder['peak_rss_mib']:.0f} MiB of memory"
        )
    for name in result["latent_error"]:
        print(
            f"latents of {name}: {result['latent_difference'][name]:.1e} from {BASE}, "
            f"{result['latent_difference_from_eager'][name]:.1e} from eager, "
            f"{result['latent_error'][name]:.1e} from float64"
        )
    print(*(sentence for told in result["validation"].values() for sentence in told), sep="\n")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        if can_plot():
            plot(result, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
