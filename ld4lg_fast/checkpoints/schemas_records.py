"""Schemas of the files that say how to repeat a run: ``training_record.json`` and ``samples/stored.json``."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ld4lg_fast.checkpoints.schemas import Count, Digest, Name, Schema, Words

Setting = Literal["num_samples", "sampler", "num_inference_steps", "class_id", "source", "max_new_tokens"]
Facts = Annotated[dict[Name, Name], Field(max_length=100)]


class StageRecord(Schema):
    """One stage of a training, see `ld4lg_fast.training.training_record`."""

    config: dict[str, Any]
    seed: Count
    data: Digest
    machine: Facts
    versions: Facts
    processes: Annotated[int, Field(ge=1, le=10_000)]
    precision: Name
    learning_rates: Annotated[list[float], Field(max_length=1000)]
    losses: Annotated[list[float], Field(max_length=1000)]

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if len(self.losses) != len(self.learning_rates):
            raise ValueError("there must be as many learning_rates as losses")
        return self


class TrainingRecordFile(Schema):
    """``training_record.json``."""

    format: Literal[1]
    stages: dict[Literal["autoencoder", "diffusion", "decoder"], StageRecord]


class StoredSamplesFile(Schema):
    """``samples/stored.json``: texts by seed, and what they were sampled with."""

    format: Literal[1]
    settings: dict[Setting, Name | Count | list[Count] | list[Words]]
    machine: Facts
    versions: Facts
    texts: Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], list[Words]], Field(min_length=1)]
