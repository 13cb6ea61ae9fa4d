"""Checkpoints as the published systems' trainers leave them, made on the spot from given weights."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from golden_cases import Case, load_cases
from torch import Tensor, nn
from transformers import BartForConditionalGeneration, PreTrainedTokenizerBase

from ld4lg_fast.diffusion.schedules import DiscreteSchedule
from ld4lg_fast.errors import CheckpointError, LD4LGError
from ld4lg_fast.models import parameter_names
from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.published.import_checkpoint import import_checkpoint
from tests.conftest import randomize
from tests.language_models import tiny_bart

CASES = load_cases(Path(__file__).parents[1] / "golden")
STATISTICS = next(case for case in CASES if case.id == "unofficial/latent_normalization/batch_0")

OFFICIAL_ARGS = {
    "dataset_name": "roc",
    "enc_dec_model": "nobody/bart",
    "latent_model_path": "saved_latent_models/roc/2024-02-26_18-16-35",
    "tx_dim": 64,
    "tx_depth": 2,
    "num_dense_connections": 0,
    "self_condition": True,
    "scale_shift": True,
    "disable_dropout": False,
    "class_conditional": False,
    "class_unconditional_prob": 0.1,
    "seq2seq_unconditional_prob": 0.1,
    "max_seq_len": 8,
    "objective": "pred_v",
    "loss_type": "l2",
    "train_schedule": "cosine",
    "sampling_schedule": None,
    "scale": 1.0,
    "train_prob_self_cond": 0.5,
    "normalize_latent": False,
    "sampler": "ddpm",
    "sampling_timesteps": 250,
}
UNOFFICIAL_CONFIG = {
    "dataset": {"name": "ag_news", "use_class_condition": True, "num_classes": 4},
    "diffusion": {
        "beta": {"schedule": "linear", "start": 0.0001, "end": 0.02},
        "timesteps": 1000,
        "objective": "pred_x0",
        "loss_type": "l1",
        "self_condition_prob": 0.5,
        "class_uncondition_prob": 0.1,
    },
    "network": {
        "transformer": {
            "attn_dropout": 0.1,
            "ff_dropout": 0.1,
            "use_class_condition": "${dataset.use_class_condition}",
            "num_classes": "${dataset.num_classes}",
        },
        "autoencoder": {"name": "nobody/bart"},
    },
}


def golden_cases(kind: str) -> dict[str, list[Case]]:
    """The golden cases of a kind by the file of their weights."""
    files: dict[str, list[Case]] = {}
    for case in CASES:
        if case.kind == kind:
            files.setdefault(Path(case.entry["weights_file"]).stem, []).append(case)
    return files


def saved_bart(
    folder: Path, tokenizer: PreTrainedTokenizerBase, width: int, seed: int = 0
) -> BartForConditionalGeneration:
    """A random BART with its tokenizer in a folder, as a hub would hold it."""
    lm = randomize(tiny_bart(len(tokenizer), width), seed, std=0.3).eval()
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return lm


def official_denoiser(dim_latent: int, max_len: int, **sizes) -> dict[str, Tensor]:
    """A random official denoiser, 64 wide with 2 blocks, under published names."""
    config = DenoiserConfig(
        dim=64, depth=2, dim_latent=dim_latent, max_len=max_len, num_dense_connections=0, **sizes
    )
    return parameter_names.to_published(
        randomize(DiffusionTransformer(config)).state_dict(), parameter_names.denoiser_names(config)
    )


def official_perceiver(dim_lm: int, dim_latent: int, num_latents: int) -> dict[str, Tensor]:
    """A random official Perceiver of one layer under published names."""
    config = PerceiverConfig(
        dim_lm=dim_lm, dim_latent=dim_latent, num_latents=num_latents, depth=1, max_len=32
    )
    return parameter_names.to_published(
        randomize(Perceiver(config)).state_dict(), parameter_names.perceiver_names(config)
    )


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def write_official_autoencoder(
    folder: Path, lm: nn.Module, perceiver: dict[str, Tensor], args: dict | None = None
) -> None:
    """``model.pt`` and ``args.json`` of an autoencoder."""
    config = parameter_names.perceiver_config(perceiver, l2_normalize=False)
    settings = {
        "enc_dec_model": "nobody/bart",
        "num_encoder_latents": config.num_latents,
        "num_decoder_latents": config.num_latents,
        "dim_ae": config.dim_latent,
        "num_layers": config.depth,
        "max_seq_len": config.max_len,
        "l2_normalize_latents": False,
        "lm_mode": "freeze",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(settings | (args or {})))
    model = lm.state_dict() | prefixed("perceiver_ae.", perceiver)
    torch.save({"step": 50000, "model": model, "opt": {"state": {}}, "scaler": None}, folder / "model.pt")


def official_module(
    denoiser: dict[str, Tensor], lm: nn.Module, mean: Tensor | None = None, scale: Tensor | None = None
) -> dict[str, Tensor]:
    """The state dict of the official diffusion module."""
    dim_latent = denoiser["output_proj.weight"].shape[0]
    return (
        prefixed("diffusion_model.", denoiser)
        | prefixed("context_encoder.", lm.get_encoder().state_dict())
        | {"latent_mean": torch.zeros(dim_latent) if mean is None else mean}
        | {"latent_scale": torch.ones(()) if scale is None else scale}
    )


def write_official(folder: Path, averaged: dict[str, Tensor], args: dict | None = None) -> None:
    """``model.pt`` and ``args.json`` of a diffusion run; its last weights are all zero."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps(OFFICIAL_ARGS | (args or {})))
    last = {key: torch.zeros_like(tensor) for key, tensor in averaged.items()}
    ema = prefixed("online_model.", last) | prefixed("ema_model.", averaged)
    ema |= {"initted": torch.tensor([True]), "step": torch.tensor([250000])}
    content = {
        "step": 250000,
        "model": last,
        "ema": ema,
        "opt": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scaler": None,
        "scheduler": {"last_epoch": 3, "lr_lambdas": [{}]},
    }
    torch.save(content, folder / "model.pt")


def schedule_buffers(name: str, timesteps: int) -> dict[str, Tensor]:
    """Two of the buffers that the unofficial diffusion module has of its schedule."""
    schedule = DiscreteSchedule(name, timesteps)
    return {"betas": schedule.betas.float(), "alphas_cumprod": schedule.alphas_cumprod.float()}


def unofficial_module(
    transformer: dict[str, Tensor], lm: nn.Module, mean: Tensor, std: Tensor
) -> dict[str, Tensor]:
    """The state dict of the unofficial diffusion module."""
    return (
        prefixed("transformer.", transformer)
        | prefixed("autoencoder.", lm.state_dict())
        | schedule_buffers("linear", 1000)
        | {"x_mean": mean, "x_std": std}
    )


def unofficial_config(transformer: dict[str, Tensor], constructor: dict) -> dict:
    """The Hydra config of a run with a transformer of this constructor."""
    config = json.loads(json.dumps(UNOFFICIAL_CONFIG))
    classes = constructor["num_classes"]
    config["dataset"] |= {"use_class_condition": classes is not None, "num_classes": classes}
    if classes is None:
        config["dataset"]["name"] = "e2e"
    config["network"]["transformer"] = constructor | config["network"]["transformer"]
    return config


def write_unofficial(
    folder: Path, state: dict[str, Tensor], config: dict, weights: str = "pytorch_model_1.bin"
) -> None:
    """A Hydra run's folder with one checkpoint."""
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    path = folder / "checkpoints" / weights
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


class Official:
    """A published official run in ``root`` that parts can be exchanged in before it is imported."""

    def __init__(self, root: Path, tokenizer: PreTrainedTokenizerBase, width: int = 64) -> None:
        self.root, self.lm_folder = root, root / "lm"
        self.lm: nn.Module = saved_bart(self.lm_folder, tokenizer, width)
        self.run, self.out = root / "saved/roc/run", root / "outputs/run"
        self.latent_model = root / OFFICIAL_ARGS["latent_model_path"]
        self.denoiser = official_denoiser(dim_latent=8, max_len=8)
        self.perceiver = official_perceiver(width, dim_latent=8, num_latents=8)
        self.module: dict[str, Tensor] = {}

    def write(self, args: dict | None = None, latent_args: dict | None = None, **module) -> "Official":
        write_official_autoencoder(self.latent_model, self.lm, self.perceiver, latent_args)
        write_official(self.run, official_module(self.denoiser, self.lm, **module) | self.module, args)
        return self

    def do_import(self, **options) -> TextDiffusionPipeline:
        options = {"language_model": str(self.lm_folder)} | options
        return TextDiffusionPipeline.from_pretrained(import_checkpoint(self.run, self.out, **options))

    def refused(self, message: str, error: type[LD4LGError] = CheckpointError, **options) -> None:
        """Asserts that the import fails with one sentence and leaves nothing behind."""
        with pytest.raises(error, match=message) as caught:
            self.do_import(**options)
        assert "\n" not in str(caught.value)
        assert not self.out.exists() and not list(self.out.parent.glob(".*"))


class Unofficial:
    """A published unofficial run, likewise."""

    def __init__(
        self, root: Path, tokenizer: PreTrainedTokenizerBase, name: str = "denoiser_self_class"
    ) -> None:
        self.lm_folder, self.run, self.out = root / "lm", root / "theirs", root / "outputs/ours"
        self.lm = saved_bart(self.lm_folder, tokenizer, 8)
        self.cases = golden_cases("unofficial_denoiser")[name]
        self.mean, self.std = STATISTICS.wanted["mean"], STATISTICS.wanted["std"]
        self.config = unofficial_config(self.cases[0].weights, self.cases[0].constructor)

    def write(self, weights: str = "pytorch_model_1.bin", **changes) -> "Unofficial":
        state = unofficial_module(self.cases[0].weights, self.lm, self.mean, self.std)
        write_unofficial(self.run, state | changes, self.config, weights)
        return self

    def do_import(self, source: Path | None = None, **options) -> TextDiffusionPipeline:
        options = {"language_model": str(self.lm_folder)} | options
        return TextDiffusionPipeline.from_pretrained(
            import_checkpoint(source or self.run, self.out, **options)
        )

    refused = Official.refused
