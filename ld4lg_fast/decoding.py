"""From latents to token ids: greedy, beam and nucleus decoding through transformers' ``generate``.

Letters: B batch, N latents, W language model width, V vocabulary.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops

STRATEGIES = ("greedy", "beam", "nucleus")
TOKEN_STREAM = 1 << 30  # random stream of token draws, apart from the samplers' steps


@dataclass(frozen=True)
class DecodingConfig:
    """How latents become text; the defaults are the paper's (Lovelace et al. 2023, appendix).

    Args:
        strategy: ``greedy``, ``beam`` or ``nucleus``. num_beams: beam only. top_p, temperature: nucleus only.
        max_length, min_length: in tokens, special tokens included; max_length None is the model's own limit.
        no_repeat_ngram_size: 0 for none. repetition_penalty: 1 for none.

    Raises:
        ConfigError: an unknown strategy or a value out of range.
    """

    strategy: str = "beam"
    max_length: int | None = None
    min_length: int = 5
    num_beams: int = 4
    no_repeat_ngram_size: int = 3
    repetition_penalty: float = 1.2
    top_p: float = 0.95
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(
                f"Unknown decoding strategy {self.strategy!r}; choose one of {', '.join(STRATEGIES)}."
            )
        if self.min_length < 0 or (self.max_length is not None and self.max_length < max(2, self.min_length)):
            raise ConfigError(
                f"min_length {self.min_length} and max_length {self.max_length} do not fit together."
            )
        if self.num_beams < 1 or not 0 < self.top_p <= 1 or self.temperature <= 0:
            raise ConfigError(
                f"num_beams {self.num_beams}, top_p {self.top_p} and temperature {self.temperature} must be at "
                "least 1, in (0, 1], and above 0."
            )
        if self.no_repeat_ngram_size < 0 or self.repetition_penalty <= 0:
            raise ConfigError(
                f"no_repeat_ngram_size {self.no_repeat_ngram_size} must be 0 or more and repetition_penalty "
                f"{self.repetition_penalty} above 0."
            )


class InverseTransformSampler(LogitsProcessor):
    """Leaves one token a row: the first whose cumulative probability exceeds the row's uniform number.

    Greedy search on top of it is exact sampling, with each sentence's own random numbers (B, max_length).
    """

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = uniforms

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        cumulative = scores.double().softmax(dim=-1).cumsum(dim=-1)
        threshold = self.uniforms[:, input_ids.shape[1] - 1, None] * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, threshold, right=True).clamp(max=scores.shape[-1] - 1)
        return torch.full_like(scores, float("-inf")).scatter(1, token, 0.0)


def generate_ids(
    lm: PreTrainedModel,
    states: Tensor,
    config: DecodingConfig,
    max_len: int,
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    sample_ids: Tensor | None = None,
) -> Tensor:
    """Token ids (B, length) decoded from encoder states (B, N, W).

    Args:
        max_len: the most tokens that the model handles.
        mask: (B, N) cross-attention mask, or None for all positions.
        seed, sample_ids: nucleus sampling draws from (seed, sample id) alone; ids default to 0 … B-1.

    Raises:
        ConfigError: ``config.max_length``, which counts the start token, above ``max_len + 1``.
    """
    # The token that generation starts from is no token of the text.
    if (config.max_length or 0) > max_len + 1:
        raise ConfigError(
            f"max_length {config.max_length} exceeds the {max_len} tokens that this model handles."
        )
    max_length = config.max_length or max_len
    options = copy.deepcopy(lm.generation_config)
    options.update(
        do_sample=False,
        max_length=max_length,
        max_new_tokens=None,
        min_length=config.min_length,
        num_beams=config.num_beams if config.strategy == "beam" else 1,
        early_stopping=options.early_stopping if config.strategy == "beam" else False,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        repetition_penalty=config.repetition_penalty,
        top_p=None,
        top_k=None,
        temperature=None,
    )
    processors = LogitsProcessorList()
    if config.strategy == "nucleus":
        if sample_ids is None:
            sample_ids = torch.arange(states.shape[0], device=states.device)
        normal = ops.philox_normal(seed, sample_ids.to(states.device), TOKEN_STREAM, (max_length,))
        if config.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(config.temperature))
        processors.append(TopPLogitsWarper(config.top_p))
        processors.append(InverseTransformSampler(torch.special.ndtr(normal.double())))
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    return lm.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask.long(),
        generation_config=options,
        logits_processor=processors,
    )
