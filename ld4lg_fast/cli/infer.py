"""`scripts/infer.py`: a run directory to a JSON file of texts."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from omegaconf import DictConfig

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.shipped import results_folder
from ld4lg_fast.cli.given_texts import DEFAULT_SAMPLES, choose_prompts, choose_sources
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.decoding.reranking import choose, in_groups
from ld4lg_fast.engine.distributed import gathered, share
from ld4lg_fast.engine.engine import check_fits
from ld4lg_fast.engine.learned_timesteps import FEW_STEPS, learn_timesteps
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export.runtime.guide_options import DEFAULT_SCALE
from ld4lg_fast.export.runtime.similarity import CHOICES, SCORE
from ld4lg_fast.export.runtime.text_display import list_item
from ld4lg_fast.options.checks import check, check_folder, choose_device, output_file
from ld4lg_fast.options.groups import INFER, checked_groups
from ld4lg_fast.options.precisions import torch_dtype
from ld4lg_fast.pipeline.documents import prompt_list
from ld4lg_fast.pipeline.pipeline import TextDiffusionOutput, TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import DECODING, resolved_generation
from ld4lg_fast.pipeline.text_guide import LENGTH
from ld4lg_fast.terminal.console import console, progress_bar
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training.session import start_processes

# Entries of the group ``generation`` that the pipeline knows by the same name.
PASSED_ON = (
    *("sampler", "spacing", "eta", "class_id", "class_name", "guidance_scale", "guidance_interval"),
    *("precision", "seed", "batch_size", "guides", "guide_scales"),
)

CONDITIONS = ("class_name", "source", "guidance_scale")  # that lengths are learned under


def sample_with_bar(
    pipe: TextDiffusionPipeline, num_samples: int, length: int | None = None, **options: Any
) -> tuple[TextDiffusionOutput, float]:
    """A call of the pipeline, or of its `of_length`, under a progress bar, and the seconds that it took."""
    start = time.perf_counter()
    with progress_bar() as bar:
        tasks = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(
                    {"denoise": "denoising", "decode": "decoding", "write": "writing"}[phase], total=total
                )
            bar.update(tasks[phase], completed=done)

        call: Callable[..., TextDiffusionOutput] = pipe
        if length is not None:
            pipe.check_length(length)  # nothing is to be learned for a call that is refused
            scale = None if pipe.autoencoder.perceiver is None else DEFAULT_SCALE
            if scale is not None and LENGTH not in pipe.text_guides:
                pipe.learn_length(
                    **{name: options[name] for name in CONDITIONS if options.get(name) is not None}
                )
            call = partial(pipe.of_length, length=length, guide_scale=scale)
        output = call(num_samples, progress=progress, **options)
    return output, time.perf_counter() - start


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


def print_texts(texts: Sequence[str], seconds: float, prefixes: Sequence[str] | None = None) -> None:
    """Prints the texts, each after its prefix (class or source), and the time they took."""
    for index, text in enumerate(texts):
        console.print(*list_item(f"{prefixes[index] if prefixes else ''}{text}").split("\n"), sep="\n")
    console.print(f"{len(texts)} texts in {seconds:.1f} s.")


def infer(config: DictConfig) -> Path | None:
    """Samples as configured, prints the texts and writes them; returns the JSON file's path.

    Under ``accelerate launch`` the processes share the texts out, and all but the main one return None.

    The file holds ``texts``, ``settings``, ``seconds``, ``device`` and ``versions``; of a class-conditional
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
    num_samples, num_candidates = generation["num_samples"], generation["num_candidates"]
    sources, references = choose_sources(pipe, run_dir, asked["source_file"], num_samples, num_candidates)
    pipe.check_prompt(prompts, generation["max_new_tokens"], {})
    num_texts = DEFAULT_SAMPLES if num_samples is None else num_samples
    if sources is not None:
        num_texts = len(sources)
    elif prompts is not None:
        prompts, num_texts = prompt_list(prompts, num_texts if len(prompts) == 1 else num_samples)
    check_fits(pipe.model, num_texts * num_candidates // processes.num_processes, "generation.num_samples")
    settings = generation | {"num_samples": num_texts} | resolved_generation(pipe, generation)
    decoding = DecodingConfig(**{name: settings[name] for name in DECODING})
    path = asked["output_file"] or results_folder(run_dir) / "samples" / default_name(settings)
    path = output_file("infer.output_file", path)
    ids = share(num_texts * num_candidates, processes)
    given: dict[str, Any] = {}
    if pipe.model.writes_documents:
        every = prompts or [""]
        own = every if len(every) == 1 else [every[index] for index in ids]
        given = {"prompt": own, "max_new_tokens": settings["max_new_tokens"]}
    prefixes, seconds, texts, scores = None, 0.0, [], []
    classes: list[Any] = []
    if ids:
        output, seconds = sample_with_bar(
            pipe,
            num_samples=len(ids),
            sample_ids=ids,
            num_inference_steps=settings["num_inference_steps"],
            decoding=decoding,
            source=None if sources is None else [sources[index // num_candidates] for index in ids],
            **{name: settings[name] for name in PASSED_ON},
            **given,
        )
        texts = output.texts
        classes = [None] * len(texts) if output.class_ids is None else output.class_ids.tolist()
        scores = [0.0] * len(texts)
        if num_candidates > 1 and generation["choose_by"] == SCORE:
            scores = pipe.confidences(output.latents, texts, output.mask).tolist()
    rows = gathered(ids, list(zip(texts, classes, scores, strict=True)), processes)
    if rows is None:
        return None
    texts, classes, scores = map(list, zip(*rows, strict=True))
    content: dict = {"texts": texts}
    if pipe.statistics.class_names is not None:
        names = (*pipe.statistics.class_names, None)
        labels = [names[index] for index in classes][::num_candidates]
        content["classes"], prefixes = labels, [f"[{name or 'no class'}] " for name in labels]
    if sources is not None:
        candidates, sure = in_groups(texts, num_candidates), in_groups(scores, num_candidates)
        content["texts"] = [
            group[choose(group, own, generation["choose_by"])]
            for group, own in zip(candidates, sure, strict=True)
        ]
        content |= {"sources": sources, "references": references}
        content["candidates"] = candidates if num_candidates > 1 else None
        prefixes = [f"{source} → " for source in sources]
    if pipe.model.writes_documents and prompts is not None:
        content["prompts"] = prefixes = prompts if len(prompts) == num_texts else prompts * num_texts
    facts = {
        "run": str(run_dir),
        "settings": settings,
        "seconds": round(seconds, 3),
        "device": str(device),
        "versions": {"ld4lg_fast": __version__, "torch": torch.__version__},
    }
    write_json(path, {key: value for key, value in content.items() if value is not None} | facts)
    print_texts(content["texts"], seconds, prefixes)
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
