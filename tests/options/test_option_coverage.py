"""Every public option of the pipeline and of decoding, read from the signatures, with values that cannot work.

A new option fails here until it is checked, or is listed below with what it may be.
"""

import inspect
from dataclasses import fields
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.engine import engine
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation import EvaluationSettings, evaluate_pairs, evaluate_texts
from ld4lg_fast.export.runtime.option_checks import WholeNumber, shown
from ld4lg_fast.options.checks import RULES
from ld4lg_fast.pipeline.outputs import SamplingOptions
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model
from tests.pipeline.test_length import make_v1

COUNTING = EvaluationSettings(mauve_model=None, perplexity_model=None, bertscore_model=None)
BAD = [
    "hot",
    "",
    None,
    True,
    [],
    [1.5],
    ["a", 2],
    {},
    float("nan"),
    float("inf"),
    -float("inf"),
    1e30,
    -1,
    0,
    2.5,
]
BAD += [
    10**9,
    2**70,
    -(2**70),
    1e-300,
    object(),
    (1, 2, 3),
    b"text",
    torch.ones(2, 2),
    np.array(["a"]),
    [None],
    {1, 2},
    frozenset({"a", "b"}),
]

NUMERIC = RULES.keys() - {"early_stopping"}
NAMES = {"quality", "sampler", "spacing", "precision", "decoding", "attn_implementation"}
TEXT = {"text", "was", "becomes", "first", "second", "gap", "texts", "source", "class_name", "prompt"}
OTHER = {
    "class_id",
    "sample_ids",
    "lengths",
    "start",
    "latents",
    "mask",
    "shares",
    "guides",
    "guide_scales",
    "name",
    "labels",
    "batch_size",
    "blocks",
}

# Of each method the arguments without which it cannot be called.
LATENTS = torch.zeros(2, 6, 8)
CALLS: dict[str, dict[str, Any]] = {
    "__call__": {},
    "stream": {},
    "sample": {},
    "sample_batches": {},
    "decode": {"latents": LATENTS},
    "encode": {"texts": ["a pub"]},
    "interpolate": {"first": "a pub", "second": "an inn"},
    "between": {"first": ["a pub"], "second": ["an inn"], "shares": [0.5]},
    "analogy": {"text": "a pub", "was": "a", "becomes": "an"},
    "vary": {"text": "a pub"},
    "edit": {"texts": ["a pub"]},
    "infill": {"text": "a ___ pub"},
    "confidences": {"latents": LATENTS, "texts": ["a pub", "an inn"]},
    "token_counts": {"texts": ["a pub"]},
    "learn_length": {},
    "learn_guide": {"name": "mood", "texts": ["a pub", "an inn"] * 20, "labels": ["a", "b"] * 20},
    "guides": {},
    "of_length": {"num_samples": 2, "length": 5},
    "set_attention": {},
    "set_deterministic": {},
}
# Methods whose arguments are paths, devices and names on the hub.
ELSEWHERE = {"from_pretrained", "save_pretrained", "push_to_hub", "to", "compile", "default_guidance"}
ELSEWHERE |= {"check_length", "check_prompt"}  # are those of `of_length` and of a call
ELSEWHERE |= {"learn_guides"}  # of which `learn_guide` is a special case


def options_of(name: str) -> dict[str, Any]:
    """Names of a method's options and their defaults, including those of sampling if it accepts ``**options``."""
    parameters = dict(inspect.signature(getattr(TextDiffusionPipeline, name)).parameters)
    explained = inspect.signature(TextDiffusionPipeline.sample_batches).parameters
    if name == "sample" or (name in ("__call__", "stream") and parameters.pop("options")):
        named = (
            explained
            if name == "sample"
            else {key: explained[key] for key in get_type_hints(SamplingOptions)}
        )
        parameters |= {key: value for key, value in named.items() if key != "self"}
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in ("self", "options") and parameter.kind is not parameter.VAR_KEYWORD
    }


METHODS = [
    name
    for name, _ in inspect.getmembers(TextDiffusionPipeline, callable)
    if (name == "__call__" or not name.startswith("_")) and name not in ELSEWHERE
]
CASES = [(method, option) for method in METHODS for option in options_of(method)]


def test_every_method_and_every_option_is_known_here():
    assert set(METHODS) == CALLS.keys()
    assert {option for _, option in CASES} <= NUMERIC | NAMES | TEXT | OTHER


def may_be(option: str, default: Any, value: Any) -> bool:
    """Whether a value of `BAD` is valid for this option."""
    if value is None:
        return default is None
    if option in RULES and option != "num_samples":
        return RULES[option].allows(value)
    if option in ("text", "was", "becomes", "first", "second", "texts", "source"):
        some = isinstance(value, np.ndarray) and option in ("first", "second", "texts", "source")
        return (isinstance(value, str) or some) and not (option == "source" and value == "")
    if option in ("guides", "guide_scales"):
        return value == {}
    if option == "name":
        return value == "hot"
    return option == "class_id" and type(value) is int and value == 0


@pytest.fixture(scope="module")
def pipes(tokenizer):
    from tests.conftest import PERCEIVER, randomize

    torch.manual_seed(0)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    autoencoder = randomize(LanguageAutoencoder.from_scratch(tokenizer, lm, PERCEIVER, max_len=32), std=0.2)
    statistics = RunStatistics((0, 0, 5, 7, 1), ("calm", "loud", "odd"), (6, 4, 3), "texts.txt", 2)
    hidden = LanguageAutoencoder(autoencoder.lm, tokenizer, None, 32, True)
    v1 = make_v1(dim_latent=64, max_len=32)
    return {
        "classes": TextDiffusionPipeline(autoencoder, make_model(num_classes=3), statistics),
        "sources": TextDiffusionPipeline(autoencoder, make_model(dim_context=64)),
        "v1": TextDiffusionPipeline(hidden, v1, RunStatistics((0, 0, 5, 7, 1))),
    }


@pytest.mark.parametrize(("method", "option"), CASES, ids=lambda part: part)
def test_values_that_cannot_work_are_refused_by_name_before_anything_is_sampled(
    method, option, pipes, monkeypatch
):
    def reached(*_, **__):
        raise AssertionError("sampling had begun")

    monkeypatch.setattr(engine.SamplingRun, "__call__", reached)
    monkeypatch.setattr(LanguageAutoencoder, "generate", reached)
    monkeypatch.setattr(LanguageAutoencoder, "encode", reached)
    pipe = pipes[{"source": "sources", "lengths": "v1"}.get(option, "classes")]
    default = options_of(method)[option]
    refused = [value for value in BAD if not may_be(option, default, value)]
    assert refused
    for value in refused:
        # What a run asks of another option is in the way of none.
        arguments = CALLS[method] | {option: value}
        with pytest.raises(ConfigError) as said:
            result = getattr(pipe, method)(**arguments)
            pytest.fail(f"{method}({option}={shown(value)}) gave {shown(result)}")
        sentence = str(said.value)
        assert names(option, sentence), f"{shown(value)}: {sentence}"
        assert "\n" not in sentence and len(sentence) < 400


def names(option: str, sentence: str) -> bool:
    words = {
        "latents": "Latents",
        "decoding": "decoding",
        "text": "text",
        "first": "first",
        "second": "second",
    }
    words |= {"class_name": "class", "source": "ource", "texts": "text"}
    return words.get(option, option) in sentence


@pytest.mark.parametrize("field", [field.name for field in fields(DecodingConfig)])
def test_decoding_refuses_by_name_what_cannot_work(field):
    default = next(known.default for known in fields(DecodingConfig) if known.name == field)
    for value in BAD:
        good = value is None and default is None
        good |= field in RULES and RULES[field].allows(value)
        good |= value is None and field in ("no_repeat_ngram_size", "repetition_penalty")
        if good and not (field == "num_decodes" or (field == "min_length" and value)):
            DecodingConfig(**{field: value})
        elif not good:
            with pytest.raises(ConfigError, match=field):
                DecodingConfig(**{field: value})


@pytest.mark.parametrize(
    "option", ["num_samples", "batch_size", "seed", "num_inference_steps", "guidance_scale"]
)
def test_numbers_of_other_libraries_are_numbers(option, pipes):
    value = {"num_samples": 3, "guidance_scale": 2}.get(option, 2)
    common = {"num_samples": 3, "num_inference_steps": 2, "decoding": DecodingConfig("greedy", 8)}
    wanted = pipes["classes"](**common | {option: value}).texts
    for number in (np.int64(value), np.uint8(value), torch.tensor(value)):
        assert pipes["classes"](**common | {option: number}).texts == wanted
    if not isinstance(RULES[option], WholeNumber):
        assert pipes["classes"](**common | {option: np.float32(value)}).texts == wanted


def test_one_text_alone_is_one_text_wherever_texts_are_taken(pipes):
    pipe, common = pipes["classes"], {"num_inference_steps": 2, "decoding": DecodingConfig("greedy", 8)}
    one, alone = pipe.encode(["abc"])[0], pipe.encode("abc")[0]
    assert torch.equal(one, alone) and len(alone) == 1
    assert pipe.token_counts("abc").tolist() == pipe.token_counts(["abc"]).tolist()
    assert torch.equal(pipe.confidences(one, "abc"), pipe.confidences(one, ["abc"]))
    assert pipe.edit("abc", **common).texts == pipe.edit(["abc"], **common).texts
    assert torch.equal(
        pipe.between("abc", "x", [0.5])[0], pipe.between(["abc"], ["x"], torch.tensor([0.5]))[0]
    )
    for texts in (("abc", "x"), np.array(["abc", "x"])):
        assert torch.equal(pipe.encode(texts)[0], pipe.encode(["abc", "x"])[0])
    assert evaluate_pairs("abc", "abc", settings=COUNTING) == evaluate_pairs(
        ["abc"], ["abc"], settings=COUNTING
    )
    assert evaluate_texts("abc", "x", settings=COUNTING) == evaluate_texts(["abc"], ["x"], settings=COUNTING)
    sources = pipes["sources"]
    assert sources(2, source="abc", **common).texts == sources(2, source=["abc", "abc"], **common).texts


def test_places_that_a_pipeline_cannot_be_moved_to_are_refused(pipes):
    for place in ("cudda", "meta", "", 99, -1, 1.5, [], "cpu:x", 10**30, object()):
        with pytest.raises(ConfigError, match="The device .* is not available here"):
            pipes["classes"].to(place)
    for dtype in ("float32", torch.int8, torch.complex64, 32, True):
        with pytest.raises(ConfigError, match="dtype is .*; it must be one of torch's"):
            pipes["classes"].to("cpu", dtype)
    assert pipes["classes"].to(torch.device("cpu"), torch.float32).device.type == "cpu"


def test_more_samples_than_the_memory_holds_are_refused_at_once(pipes):
    pipe = pipes["classes"]
    for call, option in (
        (lambda: pipe(2**31 - 1), "num_samples is 2147483647"),
        (lambda: pipe.sample(2**31 - 1), "num_samples is 2147483647"),
        (lambda: pipe(10**7, best_of=1000), "num_samples times best_of is 10000000000"),
        (lambda: pipe.of_length(10**7, 5, best_of=1000), "num_samples times best_of is 10000000000"),
        (lambda: pipe.infill("a ___", 10**7, best_of=1000), "num_samples times best_of is 10000000000"),
        (lambda: pipe.vary("a", 2**31 - 1), "num_samples is 2147483647"),
        (lambda: pipe.interpolate("a", "b", 2**31 - 1), "num_texts is 2147483647"),
    ):
        with pytest.raises(
            ConfigError, match=rf"{option}; so many samples need .* GiB .* ask for at most \d+ "
        ):
            call()


def test_a_batch_that_a_cpu_has_no_memory_for_is_halved(pipes, monkeypatch):
    pipe, run, sizes = pipes["classes"], engine.SamplingRun.__call__, []

    def allocating(self, sample_ids, **conditions):
        sizes.append(len(sample_ids))
        if len(sample_ids) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return run(self, sample_ids, **conditions)

    options = {"num_inference_steps": 2, "seed": 3}
    wanted = pipe.sample(5, **options).latents
    monkeypatch.setattr(engine.SamplingRun, "__call__", allocating)
    assert torch.equal(pipe.sample(5, **options).latents, wanted) and sizes == [5, 2, 2, 1]
