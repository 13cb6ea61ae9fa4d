"""The ``train`` section of the config, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec

import torch

from ld4lg_fast.errors import ConfigError

STAGES = ("all", "autoencoder", "diffusion", "decoder")
PRECISIONS = ("auto", "no", "bf16")
COMPILE = ("auto", True, False)


def _check_number(
    name: str, value: object, low: float, high: float = math.inf, integer: bool = False
) -> None:
    kinds = int if integer else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "an integer" if integer else "a number"
        limit = f"at least {low:g}" if high == math.inf else f"between {low:g} and {high:g}"
        raise ConfigError(f"{name}={value} must be {kind} of {limit}.")


def _check_choice(name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        raise ConfigError(f"{name}={value} is unknown; choose one of {', '.join(map(str, choices))}.")


@dataclass(frozen=True)
class StageOptions:
    """How one stage trains; ``batch_size`` counts the texts of all processes together.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    ema_decay: float = 0.0
    micro_batches: int = 1

    def check(self, stage: str) -> "StageOptions":
        for name, low, high, integer in (
            ("steps", 1, math.inf, True),
            ("batch_size", 1, math.inf, True),
            ("learning_rate", 0, math.inf, False),
            ("warmup_steps", 0, math.inf, True),
            ("weight_decay", 0, math.inf, False),
            ("clip_norm", 0, math.inf, False),
            ("ema_decay", 0, 1, False),
            ("micro_batches", 1, math.inf, True),
        ):
            _check_number(f"train.{stage}.{name}", getattr(self, name), low, high, integer)
        return self


# Runs of earlier versions know no such stage.
DECODER = StageOptions(
    steps=1000, batch_size=64, learning_rate=1e-3, warmup_steps=50, weight_decay=0.01, clip_norm=1.0
)


@dataclass(frozen=True)
class TrainOptions:
    """The ``train`` section; meanings as in ``configs/train.yaml``.

    Raises:
        ConfigError: a value out of range, an unknown choice, or a tracker whose package is missing.
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
    validation_sampling_steps: int
    wandb: bool
    tensorboard: bool
    autoencoder: StageOptions
    diffusion: StageOptions
    distill_from: str | None = None
    distill_steps: int = 4
    distill_teacher_steps: int = 32
    adapt_from: str | None = None
    decoder: StageOptions = DECODER

    def __post_init__(self) -> None:
        _check_choice("train.stage", self.stage, STAGES)
        _check_choice("train.mixed_precision", self.mixed_precision, PRECISIONS)
        _check_choice("train.compile", self.compile, COMPILE)
        if (self.stage == "decoder") != (self.adapt_from is not None):
            raise ConfigError(
                f"train.stage={self.stage} does not go with train.adapt_from={self.adapt_from}: give "
                "train.adapt_from=RUN_DIR alone, which chooses the decoder stage, or leave it out for the others."
            )
        if self.max_minutes is not None:
            _check_number("train.max_minutes", self.max_minutes, 0)
        _check_number("train.autoencoder_share", self.autoencoder_share, 0.01, 0.99)
        for name in (
            "log_every",
            "checkpoint_every",
            "validate_every",
            "validation_texts",
            "validation_samples",
        ):
            _check_number(f"train.{name}", getattr(self, name), 1, integer=True)
        for name in ("distill_steps", "distill_teacher_steps"):
            _check_number(f"train.{name}", getattr(self, name), 1, integer=True)
        if (
            self.distill_teacher_steps % self.distill_steps
            or self.distill_teacher_steps == self.distill_steps
        ):
            raise ConfigError(
                f"train.distill_teacher_steps={self.distill_teacher_steps} must be a multiple of "
                f"train.distill_steps={self.distill_steps}, twice it or more."
            )
        _check_number("train.validation_sampling_steps", self.validation_sampling_steps, 2, integer=True)
        for name in ("activation_checkpointing", "cuda_graph", "profile", "wandb", "tensorboard"):
            _check_choice(f"train.{name}", getattr(self, name), (True, False))
        for name in ("wandb", "tensorboard"):
            if getattr(self, name) and find_spec(name) is None:
                raise ConfigError(
                    f"train.{name}=true needs the package {name}: pip install {name}, or set train.{name}=false."
                )

    @property
    def precision(self) -> str:
        """What Accelerate is told: ``no`` or ``bf16``."""
        if self.mixed_precision != "auto":
            return self.mixed_precision
        if torch.cuda.is_available():
            return "bf16" if torch.cuda.is_bf16_supported() else "no"
        return "bf16" if cpu_has_bf16() else "no"

    def compiles(self, device: torch.device) -> bool:
        """Whether blocks are compiled; ``auto`` means on a GPU: on a CPU it costs minutes and gains nothing."""
        return device.type == "cuda" if self.compile == "auto" else self.compile

    @property
    def trackers(self) -> list[str]:
        return [name for name in ("wandb", "tensorboard") if getattr(self, name)]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 by itself, faster than float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def read_options(section: Mapping) -> TrainOptions:
    """The ``train`` section of a config as `TrainOptions`.

    Raises:
        ConfigError: an option that does not exist or is missing, or what `TrainOptions` raises.
    """

    def build(kind: type, name: str, values: object):
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

    stages = {
        stage: build(StageOptions, f"train.{stage}", section.get(stage)).check(stage)
        for stage in ("autoencoder", "diffusion")
    }
    decoder = section.get("decoder", {})
    if isinstance(decoder, Mapping):
        decoder = vars(DECODER) | dict(decoder)
    stages["decoder"] = build(StageOptions, "train.decoder", decoder).check("decoder")
    return build(TrainOptions, "train", dict(section) | stages)
