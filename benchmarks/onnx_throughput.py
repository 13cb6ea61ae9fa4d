"""Exported graphs in ONNX Runtime beside PyTorch: denoising, decoding, cold start, size, memory, differences.

python benchmarks/onnx_throughput.py [--config small|bart-base] [--batch N] [--rounds N] [--json FILE]

Random weights. All ways to do a thing run in turns on the same latents, with as many threads as PyTorch has.
Decoding has a fixed length, so that all do the same steps; ``transformers`` is its ``generate``.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import describe_device, interleaved, versions
from transformers.modeling_outputs import BaseModelOutput

from benchmarks import language_models
from benchmarks.paper_models import V2_RECIPE
from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts, train_bpe_tokenizer
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime import OnnxTextDiffusion
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.perceiver import Perceiver, PerceiverConfig
from ld4lg_fast.pipeline import TextDiffusionPipeline

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
PRECISIONS = ("float32", "int8")
LENGTH = 32
STEPS = 4


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
    config, array = DecodingConfig(strategy, **limits), latents.numpy()
    ways = {
        "transformers": lambda: generate_with_transformers(pipe, latents, beams),
        "pytorch": lambda: pipe.decode(latents, config),
    }
    for precision, model in models.items():
        rules = model.rules(strategy=strategy, **limits)
        ways[f"onnx {precision}"] = lambda model=model, rules=rules: model.decode(array, rules=rules)
    return ways


def denoisers(
    pipe: TextDiffusionPipeline, models: dict[str, OnnxTextDiffusion], batch: int
) -> dict[str, Callable[[], np.ndarray]]:
    """Ways to sample latents, by name."""
    options = {"sampler": "dpmpp_2m", "seed": 0}
    ways = {"pytorch": lambda: pipe.sample(batch, num_inference_steps=STEPS, **options).latents.numpy()}
    for precision, model in models.items():
        ways[f"onnx {precision}"] = lambda model=model: model.sample(
            np.arange(batch), steps=STEPS, **options
        )[0]
    return ways


def cold_start(folder: Path) -> dict:
    """Seconds from a fresh interpreter to the first sentence of 25 steps, and the most memory it took (MiB)."""
    code = (
        "import runpy, sys, time; start = time.perf_counter(); folder = sys.argv[1]; "
        "sys.path.insert(0, folder); "
        "sys.argv = ['generate.py', '--num-samples', '1', '--steps', '25', '--sampler', 'dpmpp_2m']; "
        "runpy.run_path(folder + '/generate.py', run_name='__main__'); "
        "seconds = time.perf_counter() - start; "
        # Not getrusage, whose maximum is that of the process which started this one.
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')); "
        "print(seconds, int(peak.split()[1]) / 1024)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
        ).stdout.split()[-2:]
        for _ in range(3)
    ]
    return {
        "seconds": sorted(float(run[0]) for run in runs)[1],
        "peak_mib": max(float(run[1]) for run in runs),
    }


def measure(config: str, batch: int, rounds: int) -> dict:
    """All figures of a config."""
    pipe = make_pipeline(config)
    told: list[str] = []
    with tempfile.TemporaryDirectory() as place:
        pipe.save_pretrained(Path(place) / "run")
        folders = {
            name: export_run(Path(place) / "run", Path(place) / name, name, say=told.append)
            for name in PRECISIONS
        }
        threads = torch.get_num_threads()
        models = {name: OnnxTextDiffusion(folder, threads=threads) for name, folder in folders.items()}
        result: dict = {"validation": told, "folders": {}, "seconds": {}, "latent_difference": {}}
        for name, folder in folders.items():
            size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
            result["folders"][name] = {"mib": size} | cold_start(folder)
        sampling = denoisers(pipe, models, batch)
        latents = {name: way() for name, way in sampling.items()}
        for name in latents.keys() - {"pytorch"}:
            result["latent_difference"][name] = float(np.abs(latents[name] - latents["pytorch"]).max())
        start = torch.from_numpy(latents["pytorch"])
        tasks = {f"{STEPS} sampling steps": sampling}
        tasks |= {name: decoders(pipe, models, start, name) for name in ("greedy", "beam")}
        for task, ways in tasks.items():
            timings = interleaved(ways, rounds=rounds, round_seconds=0)
            result["seconds"][task] = {
                name: {"median": timing.median, "p20": timing.p20, "p80": timing.p80}
                for name, timing in timings.items()
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=SIZES, default="small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = {"config": options.config, "batch": options.batch, "tokens": LENGTH, "rounds": options.rounds}
    result |= {"device": describe_device("cpu"), "versions": versions()}
    result |= measure(options.config, options.batch, options.rounds)
    for task, ways in result["seconds"].items():
        for name, timing in ways.items():
            gain = ways["pytorch"]["median"] / timing["median"]
            print(f"{task:>18} {name:>14} {timing['median']:8.3f} s, {gain:5.2f} times pytorch")
    for name, folder in result["folders"].items():
        print(
            f"{name}: {folder['mib']:.0f} MiB, first sentence after {folder['seconds']:.1f} s, "
            f"{folder['peak_mib']:.0f} MiB of memory"
        )
    print(
        "Latents apart from PyTorch's by at most",
        result["latent_difference"],
        *result["validation"],
        sep="\n",
    )
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
