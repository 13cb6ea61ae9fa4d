"""`export_run`: a trained run to a folder of ONNX graphs that samples without PyTorch."""

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from transformers import PreTrainedModel

from ld4lg_fast._version import __version__
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.guides import Guide
from ld4lg_fast.diffusion.schedules import ContinuousSchedule, DiscreteSchedule
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.export import runtime
from ld4lg_fast.export.graphs import make_graphs
from ld4lg_fast.export.onnx_files import OPSET, quantize, to_onnx, write
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.folder import CONFIG, read_config, sha256_of
from ld4lg_fast.export.runtime.folder_schema import (
    FORMAT,
    RUNTIME,
    TOKENIZER,
    FolderConfig,
    digest_of,
    parse_config,
)
from ld4lg_fast.export.runtime.guides import write_guides
from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
from ld4lg_fast.export.runtime.records import as_json
from ld4lg_fast.export.staging import staging_folder
from ld4lg_fast.export.validation import validate_folder
from ld4lg_fast.kernels import backend
from ld4lg_fast.options.checks import check_choice, check_folder
from ld4lg_fast.options.precisions import TORCH_NAMES, precision_name
from ld4lg_fast.pipeline.documents import BlockCoder
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import QUALITIES

PRECISIONS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # quantised after the export
}

# Generation settings that the runtime lacks, with the value that disables them.
_FOREIGN_SETTINGS = {
    "sequence_bias": None,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_new_tokens": 0,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


def export_run(
    run_dir: Path | str,
    out_dir: Path | str,
    precision: str = "fp32",
    validate: bool = True,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes ``out_dir``: graphs, tokenizer, config, and the runtime with ``generate.py`` and ``serve.py``.

    The folder appears complete or not at all. ``say`` gets sentences with the differences of the graphs from PyTorch.
    int8 graphs are checked in float32 first, so that their difference shows the cost of int8 alone; bfloat16 graphs
    are checked in float32 only, since onnxruntime does not run them on a CPU.

    Args:
        precision: ``fp32``; ``fp16`` or ``bf16`` for GPUs; ``int8`` (dynamic, per channel).
        validate: compare every graph with the unpatched eager model on random inputs (see `validate_folder`).

    Raises:
        ConfigError: an unknown precision, a folder that is not empty, a language model that cannot be exported.
        CheckpointError: ``run_dir`` is not a finished run.
        ValidationError: a graph differs from the model.
    """
    out_dir = Path(os.path.abspath(out_dir))
    name = precision_name(precision)
    stored = TORCH_NAMES.get(name, name)
    check_choice("precision", name, list(map(precision_name, PRECISIONS)))
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ConfigError(f"{out_dir} exists and is not empty; choose another folder or remove it.")
    check_folder("out_dir", out_dir.parent)
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    try:
        config = folder_config(pipe, stored)
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(out_dir) as temporary:
            folder = temporary / "folder"
            folder.mkdir()
            _write_folder(folder, pipe, config, validate, say)
            if out_dir.exists():
                out_dir.rmdir()
            folder.rename(out_dir)
    except OSError as error:
        raise ConfigError(
            f"{out_dir} cannot be written ({error.strerror}); free some space there or choose another folder."
        ) from error
    except RuntimeInputError as error:  # a value that the runtime refuses
        raise ConfigError(f"{run_dir} cannot be exported: {error}") from error
    return out_dir


def _write_folder(
    folder: Path,
    pipe: TextDiffusionPipeline,
    config: FolderConfig,
    validate: bool,
    say: Callable[[str], None],
) -> None:
    precision = config.precision
    checked = "float16" if precision == "float16" else "float32"
    _write_graphs(pipe, checked, folder)
    if validate:
        validate_folder(folder, pipe, checked, say)
    if precision == "bfloat16":
        _write_graphs(pipe, precision, folder)
        say("The graphs were checked as float32 alone: onnxruntime computes in bfloat16 on GPUs only.")
    if precision == "int8":
        write({path.stem: quantize(onnx.load(path)) for path in sorted(folder.glob("*.onnx"))}, folder)
        if validate:
            validate_folder(folder, pipe, precision, say)
    pipe.autoencoder.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    if pipe.text_guides:
        write_guides(folder, [_arrays(each.guide) for each in pipe.text_guides.values()])
    _write_runtime(folder)
    _write_config(folder, config)
    if precision != "bfloat16":
        OnnxTextDiffusion(folder, ["CPUExecutionProvider"])  # the folder can be loaded


def _write_graphs(pipe: TextDiffusionPipeline, precision: str, folder: Path) -> None:
    plain = copy.deepcopy(pipe).to(dtype=PRECISIONS[precision])
    # Eager attention exports to fewer and simpler operations than fused attention.
    plain.autoencoder.lm.set_attn_implementation("eager")
    with backend.use_backend("reference"):
        models = {graph.name: to_onnx(graph) for graph in make_graphs(plain)}
    write(models, folder)


def _arrays(guide: Guide) -> list[np.ndarray]:
    """The arrays of a guide in the order of the runtime's."""
    return [getattr(guide, field.name).numpy() for field in fields(guide) if field.name != "is_number"]


def _write_runtime(folder: Path) -> None:
    """Copies the runtime's sources, ``generate.py``, ``serve.py`` and ``README.md``."""
    sources = Path(runtime.__file__).parent
    shutil.copytree(sources, folder / RUNTIME, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("generate.py", "serve.py", "README.md"):
        (folder / RUNTIME / "folder" / name).rename(folder / name)
    (folder / RUNTIME / "folder").rmdir()


def _write_config(folder: Path, config: FolderConfig) -> None:
    """Writes ``config.json`` with sizes and checksums of all files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    sizes = {name: path.stat().st_size for name, path in zip(names, files, strict=True)}
    sha256 = {name: sha256_of(path) for name, path in zip(names, files, strict=True)}
    content = as_json(replace(config, files=sizes, sha256=sha256))
    write_json(folder / CONFIG, content | {"digest": digest_of(content)})
    read_config(folder)


def folder_config(pipe: TextDiffusionPipeline, precision: str) -> FolderConfig:
    """The content of ``config.json``, without sizes and checksums of files.

    Raises:
        ConfigError: a setting of the language model that the runtime does not support.
        CheckpointError: recipe v1 without the lengths of its training texts.
        RuntimeInputError: a value that the runtime would refuse.
    """
    model, autoencoder, statistics = pipe.model, pipe.autoencoder, pipe.statistics
    diffusion, denoiser, tokenizer = model.diffusion, model.denoiser.config, autoencoder.tokenizer
    if diffusion.discrete and not sum(statistics.length_counts[1:]):
        raise CheckpointError(
            "The lengths of this model's training texts are unknown; its run directory needs a statistics.json."
        )
    # Default class: the null class if it was trained (recipe v1: always), else a sampled one.
    null_by_default = diffusion.discrete or diffusion.class_drop_prob > 0
    content = {
        "format": FORMAT,
        "written_by": f"ld4lg-fast {__version__}",
        "precision": precision,
        "opset": OPSET,
        "max_len": autoencoder.max_len,
        "generation": generation_settings(autoencoder.lm) | own_decoding(pipe.decoding),
        "tokenizer": {
            "special_ids": sorted(tokenizer.all_special_ids),
            "encode_special_tokens": tokenizer.backend_tokenizer.encode_special_tokens,
        },
        "source": {"max_len": model.source_max_len} if model.is_seq2seq else None,
        "documents": _documents(pipe),
        "qualities": {name: asdict(plan) for name, plan in QUALITIES.items()},
        "diffusion": {
            "objective": diffusion.objective,
            "schedule": schedule_levels(diffusion.schedule_for_sampling, model.learned_times),
            "sampler": model.default_sampler,
            "guidance_scale": pipe.default_guidance(),
            "num_latents": denoiser.max_len,
            "dim_latent": denoiser.dim_latent,
            "has_mask": diffusion.discrete,
            "self_condition": denoiser.self_condition,
            "num_classes": denoiser.num_classes,
            "class_modulates": denoiser.class_modulates,
            "default_class": denoiser.null_class if null_by_default else None,
            "project": (model.is_seq2seq or model.writes_documents) and diffusion.l2_normalized,
            "divisor": model.divisor.item(),
            "mean": model.latent_mean.tolist(),
        },
        "statistics": {
            name: asdict(statistics)[name] for name in ("length_counts", "class_names", "class_counts")
        },
        "files": {},
        "guides": {
            name: {
                "classes": None if each.classes is None else list(each.classes),
                "num_hidden": len(each.guide.hidden),
                "num_outputs": len(each.guide.output),
                "num_levels": len(each.guide.log_snr),
            }
            for name, each in pipe.text_guides.items()
        }
        or None,
        "vocab_size": autoencoder.language_model.vocabulary,
    }
    return parse_config(content)


def _documents(pipe: TextDiffusionPipeline) -> dict | None:
    """What the runtime needs to write documents; None for a model that writes single texts."""
    if not pipe.model.writes_documents:
        return None
    coder = BlockCoder(pipe.autoencoder, pipe.model.recipe["prefix_tokens"])
    return {
        "context_blocks": pipe.model.recipe["context_blocks"],
        "block_tokens": coder.writer.room,
        "prefix_tokens": coder.writer.num_prefix,
        "between": coder.between,
    }


def schedule_levels(
    schedule: ContinuousSchedule | DiscreteSchedule, learned_times: list[float] | None
) -> dict:
    """The arguments of the runtime's `sampling_grid` for any number of steps."""
    levels = {"name": schedule.name, "learned_times": learned_times}
    if isinstance(schedule, DiscreteSchedule):
        return levels | {"alphas_cumprod": schedule.alphas_cumprod.tolist()}
    return levels | {"scale": schedule.scale}


def own_decoding(decoding: DecodingConfig) -> dict:
    """The run's own default decoding settings, without those of the language model."""
    settings = asdict(decoding) | decoding.rules
    del settings["precision"]  # of PyTorch's matmuls
    return {name: value for name, value in settings.items() if value is not None}


def generation_settings(lm: PreTrainedModel) -> dict:
    """The language model's own rules, under the names of the runtime's `DecodingRules`.

    Raises:
        ConfigError: a setting that the runtime does not support.
    """
    settings = lm.generation_config
    for name, idle in _FOREIGN_SETTINGS.items():
        value = getattr(settings, name, None)
        if value not in (None, idle):
            raise ConfigError(
                f"The language model's generation setting {name}={value!r} has no counterpart in the exported "
                "runtime; remove it from the model's generation_config.json."
            )
    start, pad, eos = settings.decoder_start_token_id, settings.pad_token_id, settings.eos_token_id
    eos = eos if isinstance(eos, list) else [eos]
    return {
        "start_token": settings.bos_token_id if start is None else start,
        "pad_token": eos[0] if pad is None else pad,
        "eos_tokens": eos,
        "forced_bos_token": _single(settings.forced_bos_token_id),
        "forced_eos_token": _single(settings.forced_eos_token_id),
        "early_stopping": settings.early_stopping or False,
        "length_penalty": 1.0 if settings.length_penalty is None else settings.length_penalty,
    }


def _single(token: int | list[int] | None) -> int | list[int] | None:
    """In transformers, a list of one token means that token."""
    return token[0] if isinstance(token, list) and len(token) == 1 else token
