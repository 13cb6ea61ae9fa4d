"""Validation of a denoiser: its loss with fixed noise, and sampled texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.schedules import DiscreteSchedule
from ld4lg_fast.engine.distributed import gathered, share
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.block_latents import BlockLatents
from ld4lg_fast.training.conditioned_latents import ConditionedLatents
from ld4lg_fast.training.reconstruction import exact_decoding
from ld4lg_fast.training.seeding import step_generator
from ld4lg_fast.training.session import Session, on_main

BATCH = 128


@dataclass(frozen=True)
class ValidationSet:
    """Latents of the validation texts, the autoencoder that decodes samples, and sources, if the model uses them."""

    texts: ConditionedLatents | BlockLatents
    autoencoder: LanguageAutoencoder
    statistics: RunStatistics
    sources: Sequence[str] | None


@torch.no_grad()
def validation_loss(
    model: LatentDiffusion, texts: ConditionedLatents | BlockLatents, session: Session
) -> float:
    """Mean loss over all texts; noise and times are the same in every call.

    The batches are distributed over the processes; call in all of them.
    """

    def of_mine() -> float:
        total = 0.0
        for start in session.mine(range(0, len(texts), BATCH)):
            rows = list(range(start, min(start + BATCH, len(texts))))
            latents, given = texts.batch(rows, model.latent_mean.device)
            conditions: Any = given
            draws = model.draw(latents, step_generator(session.seed, "validation", start))
            total += model.loss(latents, draws, **conditions).loss.item() * len(rows)
        return total

    return session.summed(session.interruptible(of_mine))[0] / len(texts)


def validation_classes(num_samples: int, num_classes: int) -> Tensor | None:
    """Classes of the samples, in turn, or None for a model without classes."""
    return torch.arange(num_samples) % num_classes if num_classes else None


def deterministic_sampling(model: LatentDiffusion, num_steps: int) -> dict[str, Any]:
    """The sampler and the number of steps, at most ``num_steps``, of texts that are compared from time to time.

    A distilled model has steps of its own, for DDIM; so has one of discrete times, of which there may be fewer.
    """
    schedule, distilled = model.diffusion.schedule_for_sampling, model.recipe.get("distilled_steps")
    if isinstance(schedule, DiscreteSchedule):
        num_steps = min(num_steps, schedule.num_train_timesteps)
    is_ddim = distilled or model.diffusion.discrete
    return {"sampler": "ddim" if is_ddim else "dpmpp_2m", "num_inference_steps": distilled or num_steps}


def document_tokens(pipe: TextDiffusionPipeline) -> int | None:
    """Most tokens of a document that is sampled during training, two blocks; None for a model that writes none."""
    return 2 * pipe.autoencoder.max_len if pipe.model.writes_documents else None


@torch.no_grad()
def print_and_keep_samples(
    pipe: TextDiffusionPipeline, step: int, loss: float, sources: Sequence[str] | None, session: Session
) -> None:
    """Samples texts, prints them and writes ``samples/validation_step_<step>.json``.

    Classes take turns; ``sources`` are those of a sequence-to-sequence model. The samples are distributed over the
    processes; call in all of them.
    """
    options, count = session.options, session.options.validation_samples
    if sources is not None:
        count = min(count, len(sources))
        sources = list(sources[:count])
    class_id = validation_classes(count, pipe.model.denoiser.config.num_classes)
    sampling = deterministic_sampling(pipe.model, options.validation_num_inference_steps)
    ids = share(count, session.accelerator)

    def of_mine() -> list[str]:
        if not ids:
            return []
        return pipe(
            len(ids),
            sample_ids=ids,
            **sampling,
            class_id=None if class_id is None else class_id[ids],
            source=None if sources is None else [sources[i] for i in ids],
            max_new_tokens=document_tokens(pipe),
            decoding=exact_decoding(pipe.autoencoder.max_len),
            seed=session.seed,
        ).texts

    texts = gathered(ids, session.interruptible(of_mine), session.accelerator)
    content = {
        "step": step,
        "validation_loss": loss,
        "sampler": sampling["sampler"],
        "sampling_steps": sampling["num_inference_steps"],
        "seed": session.seed,
        "class_id": None if class_id is None else class_id.tolist(),
        "sources": sources,
        "texts": texts,
    }
    path = session.run.samples / f"validation_step_{step}.json"
    on_main(session.accelerator, lambda: write_json(path, content))
    # Logged last: the line marks the validation as complete.
    seconds = round(session.clock.seconds(), 2)
    session.metrics_log.write("diffusion", step, validation_loss=loss, seconds=seconds)
    console.print(f"diffusion, step {step}: validation loss {loss:.4f}; samples:")
    names = pipe.statistics.class_names or ()
    for index, text in enumerate(texts or ()):
        prefix = "" if class_id is None else f"[{names[class_id[index]]}] "
        prefix += "" if sources is None else f"{sources[index]} → "
        console.print(f"  • {prefix}{text}")
