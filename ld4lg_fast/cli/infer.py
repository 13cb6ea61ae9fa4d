"""`scripts/infer.py`: a run directory to a JSON file of texts."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import PartialState
from omegaconf import DictConfig

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.shipped import results_folder
from ld4lg_fast.cli.given_texts import DEFAULT_SAMPLES, choose_prompts, choose_sources
from ld4lg_fast.cli.inferred_texts import InferredTexts
from ld4lg_fast.cli.sampling_output import prefix_of, print_texts, sampling_bars
from ld4lg_fast.cli.text_lines import SUFFIX, digest, model_identity, write_lines
from ld4lg_fast.engine.engine import check_fits, fitting_batch
from ld4lg_fast.engine.learned_timesteps import FEW_STEPS, learn_timesteps
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export.runtime.similarity import CHOICES
from ld4lg_fast.options.checks import check, check_folder, choose_device, output_file
from ld4lg_fast.options.groups import INFER, checked_groups
from ld4lg_fast.options.precisions import torch_dtype
from ld4lg_fast.pipeline.documents import prompt_list
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import resolved_generation
from ld4lg_fast.terminal.console import console, progress_bar
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training.session import start_processes

COLUMNS = {
    "text": "texts",
    "class": "classes",
    "source": "sources",
    "reference": "references",
    "candidates": "candidates",
    "prompt": "prompts",
}
"""What a text has in JSON lines, and its column in one JSON object."""


def learn_and_keep_timesteps(run_dir: Path, device: torch.device, seed: int) -> None:
    """Runs `learn_timesteps` under a progress bar and writes what it found into the run's denoiser.

    Raises:
        CheckpointError: no finished run, or none that can be written to, as a model that ships or lies on the hub.
    """
    model = TextDiffusionPipeline.from_pretrained(run_dir).to(device).model
    if not (run_dir / "denoiser").is_dir():
        raise CheckpointError(
            f"{run_dir} is no folder that the times could be kept in; copy the model with save_pretrained and name "
            "the copy."
        )
    check_folder("RUN_DIR", run_dir / "denoiser")
    check("seed", seed)
    with RunLock(run_dir), progress_bar() as bar:
        task = bar.add_task("trying curves")
        found = learn_timesteps(
            model, seed, lambda done, total: bar.update(task, completed=done, total=total)
        )
        with fingerprint.renewed(run_dir):
            model.save(run_dir / "denoiser")
    console.print(
        f"Error of {FEW_STEPS} steps: {found['equal']:.4f} with equal ones, {found['learned']:.4f} with t = "
        f"(1 - u^{found['a']:g})^{found['b']:g}. Kept in {run_dir / 'denoiser'} for generation.spacing=learned."
    )


def infer(config: DictConfig) -> Path | None:
    """Samples as configured, prints the texts and writes them; returns the file's path.

    Under ``accelerate launch`` the processes share the texts out, and all but the main one return None. A ``.jsonl``
    file is written batch by batch (`text_lines`), with a line of the same content for each text.

    A JSON file holds ``texts``, ``settings``, ``seconds``, ``device`` and ``versions``; of a class-conditional
    model each text's ``classes``; of a sequence-to-sequence model ``sources``, ``references`` where they are
    known, and all ``candidates`` that the texts were chosen from; the ``prompts`` that the texts go on with.
    """
    groups = checked_groups(config, INFER)
    processes = start_processes()
    console.quiet = not processes.is_main_process
    try:
        return _infer(groups, processes)
    finally:
        processes.destroy_process_group()


def _infer(groups: Mapping[str, dict], processes: PartialState) -> Path | None:
    asked, generation = groups["infer"], groups["generation"]
    run_dir = Path(asked["output_dir"])
    if asked["output_file"] is not None:
        output_file("infer.output_file", asked["output_file"])
    device = choose_device(asked["device"]) if processes.num_processes == 1 else processes.device
    if generation["choose_by"] not in CHOICES:
        raise ConfigError(
            f"Unknown similarity generation.choose_by={generation['choose_by']}; choose one of {', '.join(CHOICES)}."
        )
    prompts = choose_prompts(asked["prompt"], asked["prompt_file"], ("infer.prompt", "infer.prompt_file"))
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(device, torch_dtype(asked["dtype"]))
    pipe.set_deterministic(generation["deterministic"])
    num_samples, num_candidates = generation["num_samples"], generation["num_candidates"]
    sources, references = choose_sources(pipe, run_dir, asked["source_file"], num_samples, num_candidates)
    pipe.check_prompt(prompts, generation["max_new_tokens"], {})
    num_texts = DEFAULT_SAMPLES if num_samples is None else num_samples
    if sources is not None:
        num_texts = len(sources)
    elif prompts is not None:
        prompts, num_texts = prompt_list(prompts, num_texts if len(prompts) == 1 else num_samples)
    settings = generation | {"num_samples": num_texts} | resolved_generation(pipe, generation)
    path = asked["output_file"] or results_folder(run_dir) / "samples" / default_name(settings)
    path = output_file("infer.output_file", path)
    job = InferredTexts(pipe, processes, settings, sources, references, prompts)
    if path.suffix == SUFFIX:
        begun = model_identity(run_dir, pipe) | {"dtype": asked["dtype"], "generation": settings}
        begun |= {"sources": digest(sources), "prompts": digest(prompts)}
        batch_size = (settings["batch_size"] or fitting_batch(pipe.model)) * processes.num_processes
        return write_lines(path, num_texts, batch_size, begun, job.rows, processes)
    check_fits(pipe.model, num_texts * num_candidates // processes.num_processes, "generation.num_samples")
    start = time.perf_counter()
    with sampling_bars() as progress:
        rows = job.rows(0, num_texts, progress)
    seconds = time.perf_counter() - start
    if rows is None:
        return None
    content = {column: [row[name] for row in rows] for name, column in COLUMNS.items() if name in rows[0]}
    facts = {
        "run": str(run_dir),
        "settings": settings,
        "seconds": round(seconds, 3),
        "device": str(device),
        "versions": {"ld4lg_fast": __version__, "torch": torch.__version__},
    }
    write_json(path, content | facts)
    print_texts(content["texts"], seconds, list(map(prefix_of, rows)))
    console.print(f"Written to {path}.")
    return path


def default_name(settings: Mapping) -> str:
    """``ddpm_250_beam_seed0.json``, with the class where one was asked for; UTF-8 whatever the locale."""
    asked = settings["class_id"] if settings["class_name"] is None else settings["class_name"]
    of_class = "" if asked is None else "_class_" + os.fsdecode(re.sub(r"[\W_]+", "-", str(asked)).encode())
    sampling = f"{settings['sampler']}_{settings['num_inference_steps']}_{settings['strategy']}"
    return f"{sampling}{of_class}_seed{settings['seed']}.json"


def main() -> None:
    """Entry point of ``scripts/infer.py``."""
    hydra_entry(infer, "infer")
