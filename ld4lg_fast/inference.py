"""`scripts/infer.py`: a run directory to a JSON file of texts."""

import time
from dataclasses import fields
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf

from ld4lg_fast._version import __version__
from ld4lg_fast.console import console, progress_bar
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.entry import hydra_entry
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline import TextDiffusionPipeline
from ld4lg_fast.weights import write_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str | None) -> torch.device:
    """The named device, or the GPU if there is one.

    Raises:
        ConfigError: a device that this machine or this torch does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"The device {name!r} is not available here; leave it out or use cpu.") from error
    return torch.device(name)


def load_and_sample(
    run_dir: Path, device: torch.device, dtype: torch.dtype = torch.float32, **options
) -> tuple[list[str], float]:
    """Texts from a run directory under a progress bar, and the seconds that sampling took.

    ``options`` are those of `TextDiffusionPipeline.__call__`.
    """
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(device, dtype)
    start = time.perf_counter()
    with progress_bar() as bar:
        tasks = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task({"denoise": "denoising", "decode": "decoding"}[phase], total=total)
            bar.update(tasks[phase], completed=done)

        texts = pipe(progress=progress, **options).texts
    return texts, time.perf_counter() - start


def print_texts(texts: list[str], seconds: float) -> None:
    for text in texts:
        console.print(f"• {text}", markup=False, highlight=False)
    console.print(f"{len(texts)} texts in {seconds:.1f} s.", highlight=False)


def infer(config: DictConfig) -> Path:
    """Samples as configured, prints the texts and writes them; returns the JSON file's path.

    The file holds ``texts``, ``settings``, ``seconds``, ``device`` and ``versions``.
    """
    run_dir, generation = Path(config.infer.output_dir), config.generation
    if config.infer.dtype not in DTYPES:
        raise ConfigError(f"Unknown dtype {config.infer.dtype!r}; choose one of {', '.join(DTYPES)}.")
    device = choose_device(config.infer.device)
    names = {field.name for field in fields(DecodingConfig)}
    decoding = DecodingConfig(**{key: value for key, value in generation.items() if key in names})
    texts, seconds = load_and_sample(
        run_dir,
        device,
        DTYPES[config.infer.dtype],
        num_samples=generation.num_samples,
        num_inference_steps=generation.sampling_steps,
        sampler=generation.sampler,
        decoding=decoding,
        class_id=generation.class_id,
        guidance_scale=generation.guidance_scale,
        seed=generation.seed,
        batch_size=generation.batch_size,
    )
    name = f"{generation.sampler}_{generation.sampling_steps}_{generation.strategy}_seed{generation.seed}.json"
    path = Path(config.infer.output_file or run_dir / "samples" / name)
    settings = OmegaConf.to_container(generation)
    versions = {"ld4lg_fast": __version__, "torch": torch.__version__}
    write_json(
        path,
        {
            "texts": texts,
            "run": str(run_dir),
            "settings": settings,
            "seconds": round(seconds, 3),
            "device": str(device),
            "versions": versions,
        },
    )
    print_texts(texts, seconds)
    console.print(f"Written to {path}.", markup=False, highlight=False)
    return path


def main() -> None:
    """Entry point of ``scripts/infer.py``."""
    hydra_entry(infer, "infer")
