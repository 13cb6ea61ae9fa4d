"""Bodies of the POST routes. Values are checked by the rules of the command line, in the same sentences."""

import secrets
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from ..decoding import STRATEGIES
from ..guide_options import SCALE
from ..option_checks import (
    OPTIONS,
    Choice,
    Number,
    Rule,
    Switch,
    WholeNumber,
    complaint,
    elements,
    shown,
    text_complaint,
)

MOST_SAMPLES = 10_000
DEFAULT_QUALITY = "draft"
MOST_STOPS = 4  # as OpenAI
MOST_SHOWN = 64  # steps whose texts are shown
MOST_GUIDES = 16
GAP = "___"
MOST_CHARACTERS, MOST_GAPS = 20_000, 16  # of a text that is interpolated or filled

# Fields of OpenAI's route that this server has no use for, with the values that change nothing.
NEUTRAL: Mapping[str, tuple] = {
    "echo": (False,),
    "logprobs": (0,),
    "best_of": (1,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}

Complaint = Callable[[str, Any], str | None]
"""(name, value) -> the sentence that refuses the value, or None."""


def _refuse(sentence: str, param: str) -> PydanticCustomError:
    return PydanticCustomError("rule", "{sentence}", {"sentence": sentence, "param": param})


def _checked(find: Complaint) -> BeforeValidator:
    """A validator of a field; null stands for the default."""

    def validate(value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if value is not None and (sentence := find(name, value)):
            raise _refuse(sentence, name)
        return value

    return BeforeValidator(validate)


def _by(rule: Rule) -> BeforeValidator:
    return _checked(lambda name, value: complaint(name, value, rule))


def _texts_complaint(name: str, value: Any) -> str | None:
    """A text or a list of texts."""
    if isinstance(value, str):
        return text_complaint(name, value)
    if not isinstance(value, list) or not value:
        return f"{name} is {shown(value)}; it must be a text or a list of texts."
    found = (text_complaint(f"{name}[{place}]", text) for place, text in enumerate(value))
    return next(filter(None, found), None)


def _stop_complaint(name: str, value: Any) -> str | None:
    if sentence := _texts_complaint(name, value):
        return sentence
    stops = [value] if isinstance(value, str) else value
    if len(stops) > MOST_STOPS or "" in stops:
        return f"{name} is {shown(value)}; it must be at most {MOST_STOPS} texts that are not empty."
    return None


def _steps_complaint(name: str, value: Any) -> str | None:
    steps = elements(value)
    if steps is None or len(steps) > MOST_SHOWN:
        return f"{name} is {shown(value)}; it must be a list of at most {MOST_SHOWN} steps."
    rule = OPTIONS["num_inference_steps"]
    return next(filter(None, (complaint(f"{name}[{i}]", step, rule) for i, step in enumerate(steps))), None)


def _stream_options_complaint(name: str, value: Any) -> str | None:
    if not isinstance(value, dict) or not value.keys() <= {"include_usage"}:
        return f'{name} is {shown(value)}; it must be {{"include_usage": true}} or left out.'
    return complaint(f"{name}.include_usage", value.get("include_usage", False), Switch())


def _guides_complaint(name: str, value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > MOST_GUIDES:
        return f'{name} is {shown(value)}; it must be an object such as {{"food": "Italian"}}.'
    for guide, target in value.items():
        number = isinstance(target, int | float) and not isinstance(target, bool)
        if not number and (sentence := text_complaint(f"{name}.{guide}", target)):
            return sentence
    return None


def _scales_complaint(name: str, value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > MOST_GUIDES:
        return f'{name} is {shown(value)}; it must be an object such as {{"food": 3.0}}.'
    return next(
        filter(None, (complaint(f"{name}.{guide}", each, SCALE) for guide, each in value.items())), None
    )


def _given_complaint(name: str, value: Any) -> str | None:
    """A text to be interpolated or filled, which is work that cannot be given up."""
    if sentence := text_complaint(name, value):
        return sentence
    if len(value) > MOST_CHARACTERS or value.count(GAP) > MOST_GAPS:
        bounds = f"it must have at most {MOST_CHARACTERS} and {MOST_GAPS}."
        return f"{name} has {len(value)} characters and {value.count(GAP)} gaps; {bounds}"
    return None


def _or_random(seed: Any) -> Any:
    return secrets.randbelow(2**31) if seed is None else seed


Flag = Annotated[bool | None, _by(Switch())]
Text = Annotated[str | None, _checked(text_complaint)]
GivenText = Annotated[str, _checked(_given_complaint)]
Count = Annotated[int | None, _by(WholeNumber(1, MOST_SAMPLES))]
Tokens = Annotated[int | None, _by(OPTIONS["max_new_tokens"])]
Seed = Annotated[int, _by(OPTIONS["seed"]), BeforeValidator(_or_random)]
Strategy = Annotated[str | None, _by(Choice(STRATEGIES))]
Strength = Annotated[float | None, _by(OPTIONS["strength"])]


class Body(BaseModel):
    """What the bodies of all POST routes have in common."""

    model_config = ConfigDict(extra="forbid")

    model: Text = Field(None, description="Name of the model that the server has; may be left out.")
    seed: Seed = Field(
        None,
        validate_default=True,
        description="The same seed gives the same texts; by default a random one.",
    )
    user: Text = Field(None, description="Accepted and not used.")

    @model_validator(mode="before")
    @classmethod
    def without_neutral(cls, body: Any) -> Any:
        """Drops fields of OpenAI's that are asked to do nothing, and refuses them otherwise."""
        if not isinstance(body, dict):
            return body
        for name, values in NEUTRAL.items():
            if body.get(name) is not None and body[name] not in values:
                sentence = f"{name} is {shown(body[name])}, which this server does not support; leave it out."
                raise _refuse(sentence, name)
        return {name: value for name, value in body.items() if name not in NEUTRAL}


class CompletionRequest(Body):
    """Texts that a model writes."""

    prompt: Annotated[str | list[str] | None, _checked(_texts_complaint)] = Field(
        None, description="Of models that write documents: what the texts go on with."
    )
    n: Count = Field(None, description="Texts for each prompt; 1 if left out.")
    max_tokens: Tokens = Field(None, description="Most tokens of a text; by default the model's own limit.")
    stop: Annotated[str | list[str] | None, _checked(_stop_complaint)] = Field(
        None, description="Up to 4 texts; a text ends before the first of them."
    )
    stream: Flag = Field(None, description="Server-sent events instead of one answer.")
    stream_options: Annotated[dict[str, bool] | None, _checked(_stream_options_complaint)] = None
    show_steps: Annotated[list[int] | None, _checked(_steps_complaint)] = Field(
        None, description="With stream: steps, from 1, after which the text is shown as it then is."
    )
    temperature: Annotated[float | None, _by(Number(0, 1e6))] = Field(
        None, description="Of nucleus sampling; 0 decodes greedily."
    )
    top_p: Annotated[float | None, _by(OPTIONS["top_p"])] = Field(None, description="Of nucleus sampling.")
    strategy: Strategy = Field(None, description="Decoding strategy; by default the model's own.")
    quality: Text = Field(None, description="Preset of sampler and steps; draft if left out.")
    steps: Annotated[int | None, _by(OPTIONS["num_inference_steps"])] = Field(
        None, description="Sampling steps, instead of the preset's."
    )
    sampler: Text = Field(None, description="Instead of the preset's.")
    class_name: Text = Field(None, description="Of class-conditional models.")
    source: Text = Field(None, description="Of sequence-to-sequence models: the text that is written from.")
    guides: Annotated[dict[str, str | float] | None, _checked(_guides_complaint)] = Field(
        None, description='Attributes of the texts, as {"food": "Italian"}.'
    )
    guide_scales: Annotated[dict[str, float] | None, _checked(_scales_complaint)] = Field(
        None, description='How strongly, as {"food": 3.0}, which is the default.'
    )
    guidance_scale: Annotated[float | None, _by(OPTIONS["guidance_scale"])] = None
    length: Annotated[int | None, _by(WholeNumber())] = Field(
        None, description="Tokens, of models that take it."
    )
    start: Text = Field(None, description="A text that the results are variations of.")
    strength: Strength = Field(
        None, description="Of a variation: near 0 hardly any, 1 nothing is left of it."
    )

    @property
    def prompts(self) -> list[str]:
        """One or more; an empty one is none."""
        return self.prompt if isinstance(self.prompt, list) else [self.prompt or ""]

    @property
    def num_texts(self) -> int:
        return len(self.prompts) * (self.n or 1)

    @property
    def preset(self) -> str:
        """Name of the preset of sampler and steps."""
        return self.quality or DEFAULT_QUALITY

    def decoding_changes(self) -> dict[str, Any]:
        """Fields of the model's decoding, and their values instead."""
        changes: dict[str, Any] = {}
        if self.strategy is not None:
            changes["strategy"] = self.strategy
        elif self.temperature == 0:
            changes["strategy"] = "greedy"
        elif self.temperature is not None or self.top_p is not None:
            changes["strategy"] = "nucleus"
        if self.temperature:
            changes["temperature"] = self.temperature
        if self.top_p is not None:
            changes["top_p"] = self.top_p
        if changes.get("strategy", "nucleus") != "nucleus":
            changes["num_decodes"] = 1
        return changes

    def max_length(self, num_special: int, forced_end: bool) -> int:
        """``max_tokens`` as a limit that counts the start token and special ones.

        ``forced_end``: the token that ends a text comes at the limit; else that place is the text's.
        """
        return 1 + num_special - (not forced_end) + (self.max_tokens or 0)

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class InterpolationRequest(Body):
    """Texts between two texts."""

    first: GivenText
    second: GivenText
    n: Annotated[int | None, _by(WholeNumber(2, MOST_SAMPLES))] = Field(
        None, description="Texts, both ends included; 5 if left out."
    )
    strategy: Strategy = Field(None, description="Decoding strategy; by default the model's own.")


class InfillRequest(Body):
    """Texts whose gaps a model fills."""

    text: GivenText = Field(description="A text with gaps, written ___.")
    n: Count = Field(None, description="Most texts; fewer if fillings are equal. 4 if left out.")
    strength: Strength = None
    max_tokens: Tokens = Field(None, description="Most tokens of a filling; 12 if left out.")
    quality: Text = None
