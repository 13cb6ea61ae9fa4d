"""Compares exported graphs with the unpatched eager model on random inputs of several shapes.

Letters: B batch, N latent positions, T tokens, M source length.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.export.runtime.language_model import LanguageModel
from ld4lg_fast.export.runtime.session import Session
from ld4lg_fast.kernels import backend
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

# Largest difference allowed, relative to the largest value if that is above 1. That of int8 depends on the model: it is
# reported only.
LIMITS = {"float32": 1e-4, "float16": 2e-2, "int8": float("inf")}

SHAPES = ((1, 3), (4, 9))  # B, T and M
BEAMS = (1, 3)

Check = tuple[str, Tensor, Tensor]  # name, got, wanted


class ValidationError(LD4LGError):
    """A graph differs from the model that it was exported from."""


@torch.no_grad()
def validate_folder(
    folder: Path, pipe: TextDiffusionPipeline, precision: str, say: Callable[[str], None]
) -> None:
    """Runs every graph of a folder on the CPU beside ``pipe`` (float32), and reports their differences.

    Raises:
        ValidationError: a tensor that is not finite or differs by more than the precision's entry in `LIMITS`.
    """
    generator = torch.Generator().manual_seed(0)
    with backend.use_backend("reference"):
        worst: dict[str, float] = {}
        for check in (_denoiser, _decoder):
            for name, got, wanted in check(folder, pipe, generator):
                worst[name] = max(worst.get(name, 0.0), _difference(name, got, wanted, LIMITS[precision]))
    differences = ", ".join(f"{name} {value:.1e}" for name, value in worst.items())
    say(f"Largest relative difference from PyTorch ({precision}): {differences}.")


def _difference(name: str, got: Tensor, wanted: Tensor, limit: float) -> float:
    if got.shape != wanted.shape:
        raise ValidationError(
            f"The exported {name} has the shape {tuple(got.shape)} instead of {tuple(wanted.shape)}."
        )
    if not got.isfinite().all():
        raise ValidationError(f"The exported {name} is not finite; export in float32 or bfloat16.")
    difference = ((got - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
    if difference > limit:
        raise ValidationError(
            f"The exported {name} differs from PyTorch's by {difference:.1e}, more than {limit:.0e}."
        )
    return difference


def _denoiser(folder: Path, pipe: TextDiffusionPipeline, generator: torch.Generator) -> Iterator[Check]:
    """One evaluation, after the graph of the source text if there is one."""
    session, network = Session(folder, "denoiser", ["CPUExecutionProvider"]), pipe.model.denoiser
    config, discrete = network.config, pipe.model.diffusion.discrete
    for (batch, source_length), known in itertools.product(SHAPES, (False, True)):
        length = min(config.max_len, 2 + 2 * batch) if discrete else config.max_len
        shape = (batch, length, config.dim_latent)
        z_t, previous = torch.randn(2, *shape, generator=generator)
        mask = _random_mask(batch, length, generator)
        time = torch.rand(batch if config.class_modulates else 1, generator=generator)
        time = (time * 1000).floor() if discrete else time
        class_id = torch.randint(0, config.num_classes + 1, (batch,), generator=generator)
        feeds = {"z_t": z_t, "time": time, "mask": mask, "class_id": class_id}
        feeds |= {"x_self_cond": previous, "has_self_cond": torch.tensor([known])}
        given = {"time": time.expand(batch), "mask": mask if discrete else None}
        given["x_self_cond"] = previous if known and config.self_condition else None
        given["class_id"] = class_id if config.num_classes else None
        wanted = network(z_t, **given)
        if pipe.model.is_seq2seq or pipe.model.writes_documents:
            encode = _with_source if pipe.model.is_seq2seq else _with_blocks
            with_source, encoded = encode(folder, pipe, (batch, source_length), generator)
            has_source = torch.arange(batch) % 2 == 0
            feeds |= encoded | {"has_source": has_source}
            wanted = torch.where(has_source[:, None, None], network(z_t, **given, **with_source), wanted)
        feeds = {name: value.numpy() if isinstance(value, Tensor) else value for name, value in feeds.items()}
        feeds = {name: value for name, value in feeds.items() if name in session.inputs}
        got = torch.from_numpy(session.run(feeds, {"output": tuple(wanted.shape)})["output"].numpy())
        real = mask if discrete else torch.ones_like(mask)
        yield "denoiser output", got[real], wanted[real]


def _with_source(
    folder: Path, pipe: TextDiffusionPipeline, shape: tuple[int, int], generator: torch.Generator
) -> tuple[dict, dict]:
    """Random source tokens as the eager denoiser takes them, and as the graph takes them."""
    session, lm = Session(folder, "source", ["CPUExecutionProvider"]), pipe.autoencoder.language_model
    ids = torch.randint(0, lm.vocabulary, shape, generator=generator)
    mask = _random_mask(*shape, generator)
    states = lm.encode(ids, mask)
    encoded = session.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    return {"context": states, "context_mask": mask}, encoded | {"source_mask": mask}


def _with_blocks(
    folder: Path, pipe: TextDiffusionPipeline, shape: tuple[int, int], generator: torch.Generator
) -> tuple[dict, dict]:
    """Blocks of random tokens as the eager denoiser takes their latents, and as the graph takes them."""
    encoder, session = (Session(folder, name, ["CPUExecutionProvider"]) for name in ("encoder", "context"))
    (batch, length), model = shape, pipe.model
    most = model.recipe["context_blocks"]
    ids = torch.randint(
        0, pipe.autoencoder.language_model.vocabulary, (batch * most, length), generator=generator
    )
    mask = _random_mask(batch * most, length, generator)
    latents = pipe.autoencoder.encode(ids, mask).float()
    index = torch.randint(0, batch * most, (batch, most), generator=generator)
    flags = torch.rand(2, batch, generator=generator) < 0.5
    counts = torch.randint(0, most + 1, (batch,), generator=generator)
    states, seen = model.encode_blocks(BlockContext(latents, index, counts, *flags))
    got = encoder.run({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})["latents"].numpy()
    given = {"latents": got, "index": index.numpy(), "num_blocks": counts.numpy()}
    given |= {name: flag.numpy() for name, flag in zip(("begins", "continues"), flags, strict=True)}
    return {"context": states, "context_mask": seen}, session.run(given)


def _random_mask(batch: int, length: int, generator: torch.Generator) -> Tensor:
    return torch.arange(length) < torch.randint(1, length + 1, (batch, 1), generator=generator)


def _decoder(folder: Path, pipe: TextDiffusionPipeline, generator: torch.Generator) -> Iterator[Check]:
    """The whole path from latents to logits, token by token, with beams that change their order."""
    names = ("latents", "decoder", "cache")
    to_cache, step, growth = (Session(folder, name, ["CPUExecutionProvider"]) for name in names)
    autoencoder = pipe.autoencoder
    lm, has_mask = autoencoder.language_model, autoencoder.perceiver is None
    for (batch, length), beams in itertools.product(SHAPES, BEAMS):
        positions = min(autoencoder.num_latents, 2 + batch) if has_mask else autoencoder.num_latents
        latents = torch.randn(batch, positions, autoencoder.dim_latent, generator=generator)
        mask = _random_mask(batch, positions, generator)
        rows = torch.arange(batch).repeat_interleave(beams)
        tokens = torch.randint(0, lm.vocabulary, (batch * beams, length), generator=generator)
        decoder = LanguageModel(
            to_cache, step, growth, latents.numpy(), mask.numpy() if has_mask else None, beams
        )
        # In every step the beams of a sentence change places.
        by_beam = tokens.unflatten(0, (batch, beams)).numpy()
        order, logits = np.arange(beams), []
        for place in range(length):
            if decoder.is_full():
                decoder.grow(np.arange(batch))
            step_logits = decoder.step(by_beam[:, order, place])[:, np.argsort(order)]
            logits.append(torch.from_numpy(step_logits).flatten(0, 1))
            order = np.roll(order, 1)
            decoder.choose(np.tile(np.roll(np.arange(beams), 1), (batch, 1)))
        states = autoencoder.decode_states(latents)[rows]
        wanted = lm.logits(states, mask[rows] if has_mask else None, tokens)
        yield "decoder logits", torch.stack(logits, dim=1), wanted
