"""The card of a model on the hub: sizes, training texts, evaluation and limits, in Markdown."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints import hub
from ld4lg_fast.checkpoints.files import read_json
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.renamed import current_entries
from ld4lg_fast.export.runtime.text_display import displayed
from ld4lg_fast.pipeline.base import PipelineBase

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

PAPER = "https://arxiv.org/abs/2212.09462"


def model_card(
    pipe: PipelineBase,
    repo_id: str,
    *,
    license: str | None = None,
    evaluation: Path | str | None = None,
) -> "ModelCard":
    """A `huggingface_hub.ModelCard`: sizes, training texts, evaluation, limits and usage.

    Args:
        license: an identifier of the hub such as ``mit``; None leaves it out.
        evaluation: a JSON file of ``ld4lg evaluate``, whose table the card shows.

    Raises:
        CheckpointError: ``evaluation`` cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    origin = pipe.autoencoder.origin
    base = None if origin is None else origin.name_or_path
    data = ModelCardData(
        license=license,
        base_model=base if base is not None and hub.looks_like_hub_name(base) else None,
        library_name="ld4lg-fast",
        pipeline_tag="text-generation",
        tags=["text-diffusion", "latent-diffusion", "ld4lg"],
    )
    parts = [
        f"# {repo_id.rpartition('/')[2]}",
        f"A text diffusion model ([latent diffusion for language generation]({PAPER})), trained with ld4lg-fast "
        f"{__version__}.",
        "## Use",
        _usage(pipe, repo_id),
        "## Model",
        _table(_facts(pipe)),
        "## Training texts",
        _training_texts(pipe),
        "## Limits",
        "It writes texts like those it was trained on, of their length and with their biases, and states no facts. It "
        "may repeat training texts; `ld4lg evaluate` measures how much (memorization).",
    ]
    if evaluation is not None:
        found = read_json(Path(evaluation), "an evaluation")
        try:
            parts[-2:-2] = ["## Evaluation", _evaluation(found)]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{evaluation} is not what ld4lg evaluate writes; make it again."
            ) from error
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


def _usage(pipe: PipelineBase, repo_id: str) -> str:
    condition = ""
    if pipe.statistics.class_names:
        name = displayed(json.dumps(pipe.statistics.class_names[0], ensure_ascii=False))
        condition = f", class_name={name}, guidance_scale=2.0"
    elif pipe.model.is_seq2seq:
        condition = ', source="…"'
    return (
        "```python\nfrom ld4lg_fast import TextDiffusionPipeline\n\n"
        f'pipe = TextDiffusionPipeline.from_pretrained("{repo_id}")\n'
        f'print(pipe(num_samples=4, quality="balanced", seed=1{condition}).texts)\n```'
    )


def _facts(pipe: PipelineBase) -> dict[str, str]:
    def millions(module: nn.Module) -> str:
        return f"{sum(weight.numel() for weight in module.parameters()) / 1e6:.1f} M parameters"

    autoencoder, recipe, config = pipe.autoencoder, pipe.model.recipe, pipe.model.denoiser.config
    kind, origin = autoencoder.lm.config.model_type, autoencoder.origin
    of_others = {}
    if origin is not None:
        name = origin.name_or_path
        name = Path(name).name if Path(name).is_absolute() else name
        of_others["language model"] = f"{name}, licence: {origin.license or 'not known'}"
    return of_others | {
        "language autoencoder": f"{kind}, {autoencoder.language_model.width} wide, {millions(autoencoder)}",
        "latents of a text": f"{autoencoder.num_latents} × {autoencoder.dim_latent}",
        "denoiser": f"{config.depth} blocks, {config.dim} wide, {millions(pipe.model.denoiser)}",
        "recipe": f"{recipe['version']}, {recipe['objective']}",
        "longest text": f"{autoencoder.max_len} tokens",
        "sampler as published": pipe.model.default_sampler,
    }


def _training_texts(pipe: PipelineBase) -> str:
    known, number = pipe.statistics, sum(pipe.statistics.length_counts)
    facts = {}
    if number:
        facts["texts"] = f"{number:,}"
        reached = 0
        for length, count in enumerate(known.length_counts):
            reached += count
            if 2 * reached >= number:
                facts["median length"] = f"{length} tokens"
                break
    if known.num_truncated is not None:
        facts["cut to the longest length"] = f"{known.num_truncated:,}"
    if known.class_names is not None:
        counts = known.class_counts or (None,) * len(known.class_names)
        facts["classes"] = ", ".join(
            name if count is None else f"{name} ({count:,})"
            for name, count in zip(known.class_names, counts, strict=True)
        )
    return _table(facts) if facts else "Nothing is recorded of them."


def _evaluation(found: Mapping) -> str:
    rows = found.get("rows") or []
    names = list(dict.fromkeys(name for row in rows for name in row["metrics"]))
    lines = [["texts", "number", *names]]
    for row in rows:
        figures = [row["metrics"].get(name) for name in names]
        cells = ["–" if figure is None else f"{figure['mean']:.4g}" for figure in figures]
        lines.append([row["name"], str(row["num_texts"]), *cells])
    lines.insert(1, ["---"] * len(lines[0]))
    how = current_entries("generation", found["settings"]["generation"])
    return (
        f"Sampled with `{how['sampler']}`, {how['num_inference_steps']} steps, measured by `ld4lg evaluate`.\n\n"
        + "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
    )


def _table(facts: Mapping[str, str]) -> str:
    rows = (f"| {name} | {_cell(value)} |" for name, value in facts.items())
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _cell(text: str) -> str:
    """A text escaped for a Markdown table, as class names may contain anything."""
    return displayed(re.sub(r"([\\`*\[\]|])", r"\\\1", text)).replace("<", "&lt;")
