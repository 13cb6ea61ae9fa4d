"""Peak memory of loading a model and of sampling from it, against its weights, one precision in a process.

python benchmarks/decode_memory.py [--config smollm2-135m|small-causal] [--device cpu|cuda]
    [--precisions fp32 bf16 int8] [--num-samples 8] [--num-inference-steps 4]
    [--json benchmarks/results/decode_memory_smollm2_135m_cpu_avx512.json]

A run directory around a decoder-only model of that size with random weights is written once. For each precision a
fresh process loads it with ``from_pretrained(run, dtype=…)`` (bfloat16 for bf16 and int8, else float32) and samples.
On a CPU memory is the resident set by the kernel's own high-water mark, less what the process had before loading
(Python, torch and transformers); mapped pages of files count. On a GPU it is allocated bytes. ``weights_mib`` are those
of all networks as they are loaded, ``float32_mib`` the same in float32.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from harness import ROOT, add_device, add_precisions, added_peak_mib, chosen_device, describe_device, versions

from benchmarks.language_models import CAUSAL_SIZES, random_llama
from benchmarks.paper_models import V2_RECIPE
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import train_bpe_tokenizer
from ld4lg_fast.data.demo import demo_dataset
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion

PRECISIONS = ("fp32", "bf16", "int8")
MAX_LEN = 64
PERCEIVER = {"num_latents": 8, "dim_latent": 16, "depth": 1, "l2_normalize": True}
DENOISER = {"dim": 192, "depth": 6, "num_dense_connections": 0, "dropout": 0.0}


def write_run(config: str, folder: Path) -> None:
    """A run directory with random weights of that size."""
    torch.manual_seed(0)
    tokenizer = train_bpe_tokenizer(demo_dataset().train.texts[:200], 1000)
    random_llama(config, initializer_range=0.05).save_pretrained(folder / "hub")
    tokenizer.save_pretrained(folder / "hub")
    autoencoder = LanguageAutoencoder.from_pretrained_lm(str(folder / "hub"), PERCEIVER, MAX_LEN)
    sizes = {"dim_latent": PERCEIVER["dim_latent"], "max_len": PERCEIVER["num_latents"]}
    model = LatentDiffusion.create(V2_RECIPE, DENOISER | sizes)
    TextDiffusionPipeline(autoencoder, model).save_pretrained(folder / "run")


def resident_mib() -> float:
    """Memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def measured(run: Path, precision: str, options: argparse.Namespace) -> dict:
    """Peaks of this process in MiB, beyond what it had before loading."""
    dtype = None if precision == "fp32" else torch.bfloat16
    decoding = DecodingConfig("nucleus", precision=precision, max_length=MAX_LEN)
    made: list[TextDiffusionPipeline] = []
    on_gpu = options.device == "cuda"
    before = 0.0 if on_gpu else resident_mib()

    def load() -> None:
        made.append(TextDiffusionPipeline.from_pretrained(run, dtype=dtype).to(options.device))

    def sample() -> None:
        made[0](options.num_samples, num_inference_steps=options.num_inference_steps, decoding=decoding)

    loading = added_peak_mib(load, options.device)
    held = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident_mib() - before
    sampling = added_peak_mib(sample, options.device)
    if loading is None or sampling is None:
        raise SystemExit(
            "the kernel's high-water mark of memory cannot be reset here (/proc/self/clear_refs)"
        )
    networks = (made[0].autoencoder, made[0].model)
    weights = [weight for network in networks for weight in network.parameters()]
    size = sum(weight.numel() * weight.itemsize for weight in weights) / 2**20
    peak = max(loading, held + sampling)
    return {
        "precision": precision,
        "loaded_as": str(weights[0].dtype).removeprefix("torch."),
        "weights_mib": size,
        "float32_mib": sum(weight.numel() * 4 for weight in weights) / 2**20,
        "load_peak_mib": loading,
        "held_mib": held,
        "peak_mib": peak,
        "load_peak_over_weights": loading / size,
        "peak_over_weights": peak / size,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=CAUSAL_SIZES, default="smollm2-135m")
    add_device(parser)
    add_precisions(parser, PRECISIONS, "one process each; by default all")
    parser.add_argument("--num-samples", type=int, default=8)
    parser.add_argument("--num-inference-steps", type=int, default=4)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)  # of a process that measures
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    chosen_device(parser, options)
    if options.run is not None:
        print(json.dumps(measured(options.run, options.precisions[0], options)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_run(options.config, Path(folder))
        for precision in options.precisions or PRECISIONS:
            command = [
                sys.executable,
                __file__,
                "--run",
                str(Path(folder) / "run"),
                "--precisions",
                precision,
            ]
            command += ["--device", options.device, "--num-samples", str(options.num_samples)]
            command += ["--num-inference-steps", str(options.num_inference_steps)]
            done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            figures = {
                name: f"{rows[-1][name]:.2f}" for name in ("load_peak_over_weights", "peak_over_weights")
            }
            print(precision, figures, file=sys.stderr, flush=True)
    result = {
        "rows": rows,
        "settings": {name: vars(options)[name] for name in ("config", "num_samples", "num_inference_steps")},
        "device": describe_device(options.device),
        "versions": versions(),
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({row["precision"]: row["peak_over_weights"] for row in rows}))


if __name__ == "__main__":
    main()
