"""Schemas of the files of a run directory: keys, types and ranges.

Sizes are bounded; `ld4lg_fast.checkpoints.tensors` compares them with the tensors. A file has all keys of its schema
without default, and no unknown ones.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ld4lg_fast.checkpoints.files import read_json
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import shown

Width = Annotated[int, Field(ge=1, le=2**16)]
Depth = Annotated[int, Field(ge=1, le=512)]
Heads = Annotated[int, Field(ge=1, le=1024)]
Positions = Annotated[int, Field(ge=1, le=2**17)]
Vocabulary = Annotated[int, Field(ge=1, le=2**22)]
TokenId = Annotated[int, Field(ge=0, lt=2**22)]
Classes = Annotated[int, Field(ge=0, le=10_000)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Probability = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # SHA-256
Words = Annotated[str, Field(max_length=100_000)]


class Schema(BaseModel):
    """Base of all schemas: strict types, finite numbers, no unknown keys."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


S = TypeVar("S", bound=BaseModel)


def validated(schema: type[S], content: dict[str, Any], path: Path) -> S:
    """``content`` as an object of the schema.

    Raises:
        CheckpointError: names file, key and value of the first missing, unknown or invalid key.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged or of another version: {_sentence(error)}.") from error


def read(schema: type[S], path: Path, what: str) -> S:
    """A JSON file as an object of the schema; ``what`` describes its folder in messages.

    Raises:
        CheckpointError: the file is missing, no JSON, or does not match the schema.
    """
    return validated(schema, read_json(path, what), path)


# Parts that pydantic adds to a key's path: branches of unions, and a marker for invalid keys.
_BRANCHES = re.compile(r"(constrained-\w+|(list|dict|tuple|function-\w+)\[.*\]|\[key\])$")


def _sentence(error: ValidationError) -> str:
    """The first validation error as a clause."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _BRANCHES.match(str(part))) or "the file"
    rest = error.error_count() - 1
    more = f" (and {rest} more)" if rest else ""
    if first["type"] == "missing":
        return f"the key {key} is missing{more}"
    if first["type"] == "extra_forbidden":
        return f"the key {shown(key)} is unknown{more}"
    rule = re.sub(r"^(Value error, |Input )", "", first["msg"])
    return f"{key[:200]} is {shown(first['input'])}; {rule[:1].lower()}{rule[1:]}{more}"


class PerceiverFile(Schema):
    """See `ld4lg_fast.models.perceiver.PerceiverConfig`."""

    dim_lm: Width
    dim_latent: Width
    num_latents: Positions
    depth: Depth
    max_len: Positions
    l2_normalize: bool
    decoder: Literal["transformer", "perceiver"]
    num_decoder_latents: Positions
    ff_mult: Annotated[int, Field(ge=1, le=64)]


class ReadingFile(Schema):
    """See `ld4lg_fast.models.language_models.Reading`."""

    layer: Depth | None
    bidirectional: bool


class OriginFile(Schema):
    """See `ld4lg_fast.autoencoder.pretrained.Origin`."""

    name_or_path: Name
    license: Annotated[str, Field(max_length=100)] | None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None


class AutoencoderFile(Schema):
    """``autoencoder/autoencoder.json``."""

    format: Literal[1]
    max_len: Positions
    freeze_lm: bool
    perceiver: PerceiverFile | None
    reading: ReadingFile = ReadingFile(layer=None, bidirectional=False)
    origin: OriginFile | None = None

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.perceiver is not None and self.perceiver.max_len != self.max_len:
            raise ValueError(f"max_len must be the Perceiver's max_len, {self.perceiver.max_len}")
        return self


class DenoiserFile(Schema):
    """See `ld4lg_fast.models.denoiser.DenoiserConfig`."""

    dim: Width
    depth: Depth
    dim_latent: Width
    max_len: Positions
    num_dense_connections: Annotated[int, Field(ge=0, le=512)]
    unet_skips: bool
    self_condition: bool
    scale_shift: bool
    num_classes: Classes
    dim_context: Annotated[int, Field(ge=0, le=2**16)]
    dropout: Dropout
    heads: Heads | None
    qk_norm: bool


class DenoiserFileV1(Schema):
    """See `ld4lg_fast.models.denoiser_v1.DenoiserConfigV1`."""

    dim: Width
    depth: Depth
    dim_latent: Width
    max_len: Positions
    cross_attention: bool
    self_condition: bool
    num_classes: Classes
    dropout: Dropout
    heads: Heads | None


def _falling(times: list[float]) -> list[float]:
    if times[0] != 1 or times[-1] != 0 or any(a < b for a, b in zip(times, times[1:], strict=False)):
        raise ValueError("the times must fall from 1 to 0")
    return times


def _rising(levels: list[float]) -> list[float]:
    if any(a >= b for a, b in zip(levels, levels[1:], strict=False)):
        raise ValueError("the levels must rise")
    return levels


class _Recipe(Schema):
    objective: Name
    loss_type: Name
    self_condition_prob: Probability
    class_drop_prob: Probability
    context_drop_prob: Probability = 0.0
    source_max_len: Positions = 64
    learned_times: (
        Annotated[list[Probability], Field(min_length=2, max_length=100_001), AfterValidator(_falling)] | None
    ) = None
    distilled_steps: Annotated[int, Field(ge=1, le=100_000)] | None = None


class RecipeV1(_Recipe):
    """The recipe of `ld4lg_fast.diffusion.latent_diffusion.make_diffusion`, version v1."""

    version: Literal["v1"]
    beta_schedule: Name
    num_train_timesteps: Annotated[int, Field(ge=1, le=100_000)]


class Recipe(_Recipe):
    """The recipe of versions v2 and v3."""

    version: Literal["v2", "v3"]
    schedule: Name
    schedule_scale: Annotated[float, Field(ge=1e-6, le=1e6)]
    sampling_schedule: Name | None
    l2_normalized: bool
    loss_weighting: Name = "none"
    self_condition_noise: Annotated[float, Field(ge=0, le=100)] = 0.0
    adaptive_schedule: bool = False
    context_blocks: Annotated[int, Field(ge=0, le=64)] = 0
    context_layers: Annotated[int, Field(ge=1, le=64)] = 2
    context_noise: Probability = 0.0
    cut_share: Probability = 0.0
    prefix_tokens: Annotated[int, Field(ge=0, le=4096)] = 0


class LatentDiffusionFile(Schema):
    """``denoiser/config.json``."""

    format: Literal[1]
    recipe: Recipe
    denoiser: DenoiserFile


class LatentDiffusionFileV1(Schema):
    """``denoiser/config.json`` of recipe v1."""

    format: Literal[1]
    recipe: RecipeV1
    denoiser: DenoiserFileV1


class StatisticsFile(Schema):
    """``statistics.json``."""

    origin: Words | None
    num_train_texts: Count | None
    num_truncated: Count | None
    token_lengths: (
        dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,5})$")], Annotated[int, Field(ge=1, le=2**53)]]
        | None
    )
    classes: Annotated[dict[Name, Count | None], Field(min_length=1, max_length=10_000)] | None

    @model_validator(mode="after")
    def _counted(self) -> Self:
        if self.classes and None in self.classes.values() and any(self.classes.values()):
            raise ValueError("either all classes have a count or none")
        if self.token_lengths and sum(self.token_lengths.values()) != self.num_train_texts:
            raise ValueError(f"the token_lengths count another number of texts than {self.num_train_texts}")
        return self


class DecodingFile(Schema):
    """``decoding.json``; `ld4lg_fast.decoding.DecodingConfig` checks the ranges."""

    strategy: Name
    max_length: int | None
    min_length: int
    num_beams: int
    no_repeat_ngram_size: int | None
    repetition_penalty: float | None
    top_p: float
    temperature: float
    top_k: int
    length_penalty: float | None
    early_stopping: bool | str | None
    num_decodes: int
    choose_decode: Name
    precision: Name | None


class GuideFile(Schema):
    """``guides/NAME.json``, see `ld4lg_fast.pipeline.text_guide.TextGuide`."""

    format: Literal[1]
    classes: Annotated[list[Name], Field(min_length=1, max_length=1000)] | None
    num_hidden: Width
    num_outputs: Annotated[int, Field(ge=1, le=1001)]
    log_snr: Annotated[
        list[Annotated[float, Field(ge=-100, le=100)]],
        Field(min_length=1, max_length=1000),
        AfterValidator(_rising),
    ]
    words: Annotated[list[Name], Field(max_length=100_000)] | None
    num_texts: Count
    fingerprint: Digest
    held_out: list[float]
    held_out_words: float | None

    @model_validator(mode="after")
    def _outputs(self) -> Self:
        wanted = (1,) if self.classes is None else (len(self.classes), len(self.classes) + 1)
        if self.num_outputs not in wanted or (self.classes is not None and self.num_outputs < 2):
            raise ValueError("num_outputs must be the number of classes, or one more")
        return self


class FingerprintFile(Schema):
    """``fingerprint.json``: SHA-256 of each model file, by its path in the run directory."""

    format: Literal[1]
    files: Annotated[dict[Name, Digest], Field(min_length=1, max_length=1000)]
