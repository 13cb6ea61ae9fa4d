"""The ``train`` section of the config, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any

import torch

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import Choice, Number, Rule, Switch, WholeNumber
from ld4lg_fast.models.attention_backends import BACKENDS, check_attn_implementation
from ld4lg_fast.options.checks import check
from ld4lg_fast.options.precisions import TORCH_NAMES, PrecisionChoice, precision_name
from ld4lg_fast.options.rules import AUTO_OR_SWITCH, NAME_OR_NULL, NULL, OneOf

STAGES = ("all", "autoencoder", "diffusion", "decoder")
PRECISIONS = ("auto", "no", "bf16")

STAGE_RULES: Mapping[str, Rule] = {
    "steps": WholeNumber(),
    "batch_size": WholeNumber(),
    "learning_rate": Number(0, 100, above=True),
    "warmup_steps": WholeNumber(0),
    "weight_decay": Number(0, 100),
    "clip_norm": Number(0, 1e9, above=True),
    "ema_decay": Number(0, 1),
    "micro_batches": WholeNumber(),
}
RULES: Mapping[str, Rule] = {
    "stage": Choice(STAGES),
    "max_minutes": OneOf(Number(0, 1e7, above=True), NULL),
    "autoencoder_share": Number(0.01, 0.99),
    "mixed_precision": PrecisionChoice(PRECISIONS),
    "compile": AUTO_OR_SWITCH,
    "attn_implementation": Choice(BACKENDS),
    "latents_dtype": PrecisionChoice(("auto", *TORCH_NAMES)),
    "share_latents": Switch(),
    **dict.fromkeys(("activation_checkpointing", "cuda_graph", "profile", "wandb", "tensorboard"), Switch()),
    **dict.fromkeys(("log_every", "checkpoint_every", "validate_every", "validation_texts"), WholeNumber()),
    "validation_samples": WholeNumber(1, 100_000),
    "validation_num_inference_steps": WholeNumber(2, 100_000),
    "distill_steps": WholeNumber(1, 100_000),
    "distill_teacher_steps": WholeNumber(1, 100_000),
    "distill_from": NAME_OR_NULL,
    "finetune_decoder_from": NAME_OR_NULL,
}


@dataclass(frozen=True)
class StageOptions:
    """Options of one stage; ``batch_size`` is that of all processes together."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    ema_decay: float = 0.0
    micro_batches: int = 1


FEWEST_STEPS = 100


def too_few_steps(stage: str, steps: int, options: StageOptions, max_minutes: float | None) -> str | None:
    """A warning for a stage that made too few steps for a useful model, or None.

    The minimum is twice the warm-up and at least `FEWEST_STEPS`. The denoiser of ``model=tiny`` then explains a sixth
    of the variance, and at the end of its warm-up a twelfth.
    """
    fewest = max(2 * options.warmup_steps, FEWEST_STEPS)
    if steps >= fewest:
        return None
    said = f"The {stage} stage made only {steps} of the {fewest} steps below which it has hardly learned anything"
    if stage == "diffusion":
        said += "; samples may read well all the same, as the decoder writes sentences by itself"
    if steps >= options.steps or max_minutes is None:
        return f"{said}. Give it more train.{stage}.steps than {options.steps}."
    return f"{said}. Give the run more train.max_minutes than {max_minutes:g}."


# Absent in runs of earlier versions.
DECODER = StageOptions(
    steps=1000, batch_size=64, learning_rate=1e-3, warmup_steps=50, weight_decay=0.01, clip_norm=1.0
)


@dataclass(frozen=True)
class TrainOptions:
    """The ``train`` section; meanings as in ``configs/train.yaml``.

    Raises:
        ConfigError: a value out of range, an unknown choice, a tracker whose package is missing, or an attention
            backend that cannot run on this machine.
    """

    stage: str
    max_minutes: float | None
    autoencoder_share: float
    mixed_precision: str
    compile: str | bool
    activation_checkpointing: bool
    cuda_graph: bool
    profile: bool
    log_every: int
    checkpoint_every: int
    validate_every: int
    validation_texts: int
    validation_samples: int
    validation_num_inference_steps: int
    wandb: bool
    tensorboard: bool
    autoencoder: StageOptions
    diffusion: StageOptions
    distill_from: str | None = None
    distill_steps: int = 4
    distill_teacher_steps: int = 32
    finetune_decoder_from: str | None = None
    decoder: StageOptions = DECODER
    attn_implementation: str = "auto"
    latents_dtype: str = "auto"
    share_latents: bool = False

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            check(f"train.{name}", getattr(self, name), rule)
        check_attn_implementation(self.attn_implementation, "train.attn_implementation")
        if self.attn_implementation != "auto" and self.stage == "decoder":
            raise ConfigError(
                f"train.attn_implementation={self.attn_implementation} is not for the decoder stage, which samples in "
                "float32 as it trains; leave it out."
            )
        if (self.stage == "decoder") != (self.finetune_decoder_from is not None):
            raise ConfigError(
                f"train.stage={self.stage} does not go with train.finetune_decoder_from={self.finetune_decoder_from}: "
                "give train.finetune_decoder_from=RUN_DIR alone, which chooses the decoder stage, or leave it out for "
                "the others."
            )
        if (
            self.distill_teacher_steps % self.distill_steps
            or self.distill_teacher_steps == self.distill_steps
        ):
            raise ConfigError(
                f"train.distill_teacher_steps={self.distill_teacher_steps} must be a multiple of "
                f"train.distill_steps={self.distill_steps}, twice it or more."
            )
        for name in ("wandb", "tensorboard"):
            if getattr(self, name) and not _is_installed(name):
                raise ConfigError(
                    f"train.{name}=true needs the package {name}: pip install {name}, or set train.{name}=false."
                )

    @property
    def precision(self) -> str:
        """Accelerate's mixed precision: ``no`` or ``bf16``."""
        return auto_precision()[0] if self.mixed_precision == "auto" else precision_name(self.mixed_precision)

    def compiles(self, device: torch.device) -> bool:
        """Whether blocks are compiled; ``auto``: on a GPU only, as a CPU gains nothing from minutes of compilation."""
        return device.type == "cuda" if self.compile == "auto" else bool(self.compile)

    @property
    def trackers(self) -> list[str]:
        return [name for name in ("wandb", "tensorboard") if getattr(self, name)]


def _is_installed(package: str) -> bool:
    """Whether a package can be imported; a plain folder of that name, such as W&B creates, does not count."""
    found = find_spec(package)
    return found is not None and found.loader is not None


def auto_precision() -> tuple[str, str]:
    """What ``train.mixed_precision=auto`` uses on this machine, ``bf16`` or ``no``, and why."""
    if torch.cuda.is_available():
        if torch.cuda.is_bf16_supported():
            return "bf16", "the GPU multiplies it"
        return "no", "the GPU does not multiply bf16"
    if cpu_has_bf16():
        return "bf16", "the CPU multiplies it (AVX-512 BF16)"
    return (
        "no",
        "the CPU does not multiply bf16 by itself (AVX-512 BF16), so training in it is slower than in fp32",
    )


def cpu_has_bf16() -> bool:
    """Whether this CPU has bf16 instructions, which are faster than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def read_options(section: Mapping) -> TrainOptions:
    """The ``train`` section of a config as `TrainOptions`.

    Raises:
        ConfigError: an option that does not exist or is missing, or what `TrainOptions` raises.
    """

    def build(kind: type, name: str, values: object) -> Any:
        known = {field.name for field in fields(kind)}
        if not isinstance(values, Mapping):
            raise ConfigError(f"{name}={values} must be a group of options: {', '.join(sorted(known))}.")
        for key in values:
            if key not in known:
                raise ConfigError(f"{name}.{key} does not exist; the options are {', '.join(sorted(known))}.")
        try:
            return kind(**values)
        except TypeError as error:
            raise ConfigError(f"The section {name} is incomplete: {error}.") from error

    def build_stage(stage: str, values: object) -> StageOptions:
        built = build(StageOptions, f"train.{stage}", values)
        for name, rule in STAGE_RULES.items():
            check(f"train.{stage}.{name}", getattr(built, name), rule)
        return built

    stages = {stage: build_stage(stage, section.get(stage)) for stage in ("autoencoder", "diffusion")}
    decoder = section.get("decoder", {})
    if isinstance(decoder, Mapping):
        decoder = vars(DECODER) | dict(decoder)
    stages["decoder"] = build_stage("decoder", decoder)
    return build(TrainOptions, "train", dict(section) | stages)
