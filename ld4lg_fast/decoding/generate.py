"""Token ids from encoder states or soft prefixes, by the fast decoders or, where those do not support a model, by
``generate``.

Letters: B batch, N latents, W language model width, V vocabulary.
"""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.decoding.causal import FAMILIES as CAUSAL_FAMILIES
from ld4lg_fast.decoding.causal import read_causal_decoder
from ld4lg_fast.decoding.causal_stack import CausalStack
from ld4lg_fast.decoding.config import DecodingConfig, check_lengths
from ld4lg_fast.decoding.families import read_decoder
from ld4lg_fast.decoding.loop import run
from ld4lg_fast.decoding.rules import Rules, UnsupportedError
from ld4lg_fast.decoding.search import BeamSearch, GreedySearch, NucleusSearch, Search
from ld4lg_fast.decoding.stack import DecoderStack
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.engine.merged_linear import choose_merge
from ld4lg_fast.engine.packed_weights import prepared_once
from ld4lg_fast.engine.precision import choose_linear
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.kernels import ops

TOKEN_STREAM = 1 << 30  # random stream of sampled tokens, apart from those of the samplers' steps

logger = get_logger("ld4lg_fast.decoding")


@torch.no_grad()
def generate_ids(
    lm: PreTrainedModel,
    states: Tensor,
    config: DecodingConfig,
    max_len: int,
    *,
    mask: Tensor | None = None,
    seed: int | Sequence[int] = 0,
    sample_ids: Tensor | None = None,
    decode: int = 0,
    prefix: Tensor | None = None,
    pause: Callable[[], object] | None = None,
    deterministic: bool = False,
) -> Tensor:
    """Token ids (B, length) decoded from states (B, N, W) of the encoder, or of a decoder-only model's soft prefix.

    A soft prefix is N embeddings before that of the start token. In float32 the tokens equal those of ``generate``,
    which also decodes models and options that the fast decoder does not support; that is logged once with the reason.

    Args:
        max_len: the most tokens that the model handles.
        mask: (B, N), the states that are read, or None for all. The fast decoder has none for soft prefixes.
        seed, sample_ids, decode: the random numbers of nucleus sampling depend only on (seed, sample id, number of the
            decode); one seed, or one for each text; ids default to 0 … B-1.
        prefix: (B, P) int64, tokens that the decoder reads before the first one that it writes; the result begins with
            the start token and these. Lengths of ``config`` are without them.
        pause: called between tokens, every `loop.CHECK_EVERY` of them; not by ``generate``.
        deterministic: whether no text may depend on the others of its batch.

    Raises:
        ConfigError: lengths that the model does not handle, see `check_lengths`, or a precision or ``deterministic``
            that this model or device does not support.
    """
    check_lengths(config, max_len)
    num_prefix = 0 if prefix is None else prefix.shape[1]
    options = _options(lm, config, max_len, num_prefix)
    uniforms = None
    if config.strategy == "nucleus":
        uniforms = _uniforms(states, options.max_length, seed, sample_ids, decode)
    try:
        embeddings: Any = lm.get_input_embeddings()
        rules = Rules.read(options, embeddings.weight.shape[0], states.device, num_prefix)
        stack = _stack(lm, config.precision, deterministic)
        with gpu_settings(states.device):
            cache = stack.start(states, mask, rules.num_beams, rules.max_length)
    except UnsupportedError as reason:
        if config.precision is not None:
            raise ConfigError(f"precision={config.precision} cannot be had here: {reason}.") from reason
        if deterministic:
            raise ConfigError(
                f"deterministic=true cannot be had here: the fast decoder does not know {reason}."
            ) from reason
        _warn_once(f"decoding through transformers' generate: the fast decoder does not know {reason}")
        with gpu_settings(states.device):
            return _generate(lm, states, mask, options, config, uniforms, prefix)
    search: Search
    fill = rules.pad
    if rules.num_beams > 1:
        search, fill = BeamSearch(stack, cache, rules, len(states)), rules.fill
    elif uniforms is None:
        search = GreedySearch(stack, cache, rules, len(states))
    else:
        limits = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p}
        search = NucleusSearch(stack, cache, rules, uniforms, **limits)
    with gpu_settings(states.device):
        return run(search, rules, len(states), fill, prefix, pause)


def _options(lm: PreTrainedModel, config: DecodingConfig, max_len: int, prefix: int = 0) -> GenerationConfig:
    """The model's generation options, overridden by ``config``."""
    options = copy.deepcopy(lm.generation_config)
    beam = config.strategy == "beam"
    options.update(
        do_sample=False,
        max_length=(config.max_length or max_len) + prefix,
        max_new_tokens=None,
        min_length=config.min_length + prefix,
        num_beams=config.num_beams if beam else 1,
        early_stopping=options.early_stopping if beam else False,
        **config.rules,
        top_p=None,
        top_k=None,
        temperature=None,
    )
    if beam and config.early_stopping is not None:
        options.early_stopping = config.early_stopping
    if config.length_penalty is not None:
        options.length_penalty = config.length_penalty
    return options


def _uniforms(
    states: Tensor, max_length: int, seed: int | Sequence[int], sample_ids: Tensor | None, decode: int
) -> Tensor:
    """Uniform random numbers (B, max_length) float64 for the sampled tokens of each text."""
    if sample_ids is None:
        sample_ids = torch.arange(len(states))
    sample_ids = sample_ids.to(states.device)
    draws = (
        [(seed, sample_ids)] if isinstance(seed, int) else list(zip(seed, sample_ids.split(1), strict=True))
    )
    stream, shape = TOKEN_STREAM + decode, (max_length,)
    normal = torch.cat([ops.philox_normal(each, ids, stream, shape) for each, ids in draws])
    return torch.special.ndtr(normal.double())


def _stack(lm: PreTrainedModel, precision: str | None, deterministic: bool) -> DecoderStack | CausalStack:
    """The cached decoder of a model, one for each precision."""
    key = (precision, deterministic)
    if not lm.config.is_encoder_decoder or lm.config.model_type in CAUSAL_FAMILIES:
        dtype, merge = choose_merge(precision, lm.dtype, lm.device, deterministic)
        return prepared_once(lm, key, lambda: CausalStack(read_causal_decoder(lm, dtype, merge), dtype))
    dtype, pack = choose_linear(precision, lm.dtype, lm.device, few_rows=True, deterministic=deterministic)
    return prepared_once(lm, key, lambda: DecoderStack(read_decoder(lm, dtype, pack), dtype))


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


class _InverseTransform(LogitsProcessor):
    """Masks all tokens but the sampled one (`ops.draw`), so that ``generate``'s greedy search takes it."""

    def __init__(self, uniforms: Tensor) -> None:
        self.uniforms = uniforms

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = ops.draw(scores, self.uniforms[:, input_ids.shape[1] - 1])
        return torch.full_like(scores, float("-inf")).scatter(1, token[:, None], 0.0)


def _generate(
    lm: PreTrainedModel,
    states: Tensor,
    mask: Tensor | None,
    options: GenerationConfig,
    config: DecodingConfig,
    uniforms: Tensor | None,
    prefix: Tensor | None = None,
) -> Tensor:
    """Token ids (B, length) from transformers' ``generate``; ``uniforms`` (B, max_length) for sampling."""
    processors = LogitsProcessorList()
    if uniforms is not None:
        if config.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(config.temperature))
        if config.top_k:
            processors.append(TopKLogitsWarper(config.top_k))
        processors.append(TopPLogitsWarper(config.top_p))
        processors.append(_InverseTransform(uniforms))
    return lm.generate(  # type: ignore[operator]  # a method of the classes with a head alone
        **_inputs(lm, states, mask, options, prefix), generation_config=options, logits_processor=processors
    )


def _inputs(
    lm: PreTrainedModel,
    states: Tensor,
    mask: Tensor | None,
    options: GenerationConfig,
    prefix: Tensor | None = None,
) -> dict[str, Any]:
    """The arguments by which ``generate`` reads ``states``; the lengths of ``options`` are changed to its own."""
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
    inputs: dict[str, Any] = {"attention_mask": mask.long()}
    if lm.config.is_encoder_decoder:
        inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=states)
        if prefix is not None:
            inputs["decoder_input_ids"] = _begun(options, prefix)
        return inputs
    ids = _begun(options, mask.new_empty((len(mask), 0), dtype=torch.long) if prefix is None else prefix)
    embeddings = lm.get_input_embeddings()(ids)
    embeddings = torch.cat([states.to(embeddings), embeddings], dim=1)
    options.max_length += embeddings.shape[1]  # generate counts the embeddings, too
    options.min_length += embeddings.shape[1]
    seen = torch.cat([mask.long(), torch.ones_like(ids)], dim=1)
    return {"input_ids": ids, "inputs_embeds": embeddings, "attention_mask": seen}


def _begun(options: GenerationConfig, prefix: Tensor) -> Tensor:
    """The start token and the tokens (B, P) behind it."""
    start = options.bos_token_id if options.decoder_start_token_id is None else options.decoder_start_token_id
    return torch.cat([prefix.new_full((len(prefix), 1), start), prefix], dim=1)
