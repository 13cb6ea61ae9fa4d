"""The pipeline and the exported runtime refuse the same values with the same sentences (without ONNX graphs)."""

from dataclasses import fields

import pytest

from ld4lg_fast import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export import exporter
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from ld4lg_fast.export.runtime.decoding import DecodingRules
from ld4lg_fast.export.runtime.option_checks import shown
from tests.export.export_models import v2_t5
from tests.options.test_option_coverage import BAD

CALL = ("num_samples", "seed", "batch_size", "num_inference_steps", "guidance_scale", "guidance_interval")
CALL += ("eta", "quality", "sampler", "spacing", "class_id", "class_name", "source")
DECODING = sorted(
    {field.name for field in fields(DecodingConfig)} & {field.name for field in fields(DecodingRules)}
)
# All latents are kept by the pipeline alone; and what it leaves to a default, the runtime has filled in.
IN_ONE_ALONE = ("num_samples 1000000000", "batch_size None")


@pytest.fixture(scope="module")
def both(tokenizer):
    pipe = v2_t5(tokenizer)
    runtime = object.__new__(OnnxTextDiffusion)  # its sessions are not reached
    runtime.config, runtime._vocabulary = exporter.folder_config(pipe, "float32"), len(tokenizer)
    return pipe, runtime


def said(error: type[Exception], call, *arguments, **options) -> str | None:
    """The sentence that refuses a call; None if it reaches sessions and samplers."""
    try:
        call(*arguments, **options)
    except error as refused:
        return str(refused)
    except AttributeError as beyond:
        assert "_denoiser" in str(beyond) or "_source" in str(beyond), beyond
    return None


@pytest.mark.parametrize("option", CALL)
def test_options_of_a_call_are_refused_alike(option, both):
    pipe, runtime = both
    for value in BAD:
        if f"{option} {shown(value)}" in IN_ONE_ALONE:
            continue
        options = {"source": "a question"} | {option: value}
        count = options.pop("num_samples", 2)
        ours = said(ConfigError, pipe.stream, count, **options)
        theirs = said(RuntimeInputError, runtime, count, **options)
        if ours is not None:
            ours = ours.replace("or infer.source_file=FILE", "or --source")
        assert (ours, option) == (theirs, option), shown(value)


@pytest.mark.parametrize("option", DECODING)
def test_options_of_decoding_are_refused_alike(option, both):
    pipe, runtime = both
    for value in BAD:
        if value is None or f"{option} {shown(value)}" in IN_ONE_ALONE:
            continue
        ours = said(
            ConfigError,
            lambda value=value: pipe.stream(2, source="a", decoding=DecodingConfig(**{option: value})),
        )
        theirs = said(RuntimeInputError, runtime, 2, source="a", **{option: value})
        assert (ours, option) == (theirs, option), shown(value)


def test_a_text_that_must_be_longer_than_any_is_refused_alike_by_its_own_name(both):
    pipe, runtime = both
    limit = pipe.autoencoder.max_len
    for least in (limit, limit + 1, limit + 2, 1000, 2**31 - 1):
        ours = said(
            ConfigError,
            lambda least=least: pipe.stream(2, source="a", decoding=DecodingConfig(min_length=least)),
        )
        theirs = said(RuntimeInputError, runtime, 2, source="a", min_length=least)
        wanted = f"min_length is {least}; it must be at most max_length, {limit} where none is given."
        assert ours == theirs == (None if least <= limit else wanted)
