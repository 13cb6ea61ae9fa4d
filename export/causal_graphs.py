"""The text decoder of a decoder-only model as ONNX graphs: the soft prefix once, then a token for each beam at a time.

The keys and values of the soft prefix take the place of cross-attention's: the beams share them, and a token attends to
them and to its own past at once. The layers are those of transformers; only their attention is replaced.

Letters: S sentences, W beams, T cached tokens, N positions of the soft prefix, d latent width, H key-value heads,
G query heads for each of them, K head width, V vocabulary.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.errors import ConfigError

NAME = "ld4lg_export"


@dataclass
class PrefixCache:
    """Collects keys and values (S, H, N, K) of each layer: key, value, key, value, …"""

    kept: list[Tensor] = field(default_factory=list)


@dataclass
class StepCache:
    """``past`` (S, H, T, W, K) and ``prefix`` (S, H, N, K) of each layer; ``bias`` (S, W, T·W) for the past.

    ``present`` collects the past with the new token at ``position`` (1,).
    """

    past: list[Tensor]
    prefix: list[Tensor]
    position: Tensor
    bias: Tensor
    present: list[Tensor] = field(default_factory=list)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    ld4lg_cache: PrefixCache | StepCache | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Plain attention that fills a `PrefixCache`, or attention of one token for each beam over a `StepCache`."""
    cache = ld4lg_cache
    if not isinstance(cache, StepCache):
        if cache is not None:
            cache.kept += [key, value]
        options.setdefault("dropout", 0.0)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return eager_attention_forward(module, query, key, value, attention_mask, scale, **options)[0], None
    first = len(cache.present)
    sentences, heads, _, beams, width = cache.past[first].shape
    new = (part[:, :, 0].unflatten(0, (sentences, beams)) for part in (key, value))
    own = [
        written(old, part, cache.position)
        for old, part in zip(cache.past[first : first + 2], new, strict=True)
    ]
    cache.present += own
    keys, values = (tensor.flatten(2, 3) for tensor in own)
    first_keys, first_values = cache.prefix[first : first + 2]
    groups = query.shape[1] // heads
    # (S·W, H·G, 1, K) -> (S, H, W·G, K)
    query = query.reshape(sentences, beams, heads, groups, width).transpose(1, 2).flatten(2, 3)
    query = query * (width**-0.5 if scaling is None else scaling)
    bias = cache.bias.repeat_interleave(groups, dim=1).unsqueeze(1)
    scores = torch.cat([query @ first_keys.transpose(2, 3), query @ keys.transpose(2, 3) + bias], dim=-1)
    weights = scores.softmax(-1)
    num_prefix = first_keys.shape[2]
    out = weights[..., :num_prefix] @ first_values + weights[..., num_prefix:] @ values
    out = out.unflatten(2, (beams, groups)).transpose(1, 2)
    return out.reshape(sentences * beams, 1, heads * groups, width), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


def written(past: Tensor, new: Tensor, position: Tensor) -> Tensor:
    """A cache (S, H, T, W, K) with ``new`` (S, W, H, K) at a position: one ScatterND, which writes in place where
    the output is bound to the memory of the input."""
    sentences, heads = (torch.arange(size) for size in past.shape[:2])
    return past.index_put((sentences[:, None], heads, position), new.transpose(1, 2))


class PrefixToCache(nn.Module):
    """Latents (S, N, d) to each layer's keys and values of the soft prefix (S, H, N, K), which the beams share."""

    def __init__(self, autoencoder: LanguageAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> list[Tensor]:
        lm, cache = self.autoencoder.lm, PrefixCache()
        prefix = self.autoencoder.decode_states(latents.to(lm.dtype)).to(lm.dtype)
        lm.get_decoder()(inputs_embeds=prefix, use_cache=False, ld4lg_cache=cache)
        return cache.kept


class CausalStep(nn.Module):
    """One token for each beam: ``tokens`` (S, W) and caches to logits (S, W, V) and the caches with it.

    Arguments as those of `decoder_graphs.DecoderStep`; ``cross`` are the soft prefix's keys and values.
    """

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(
        self, tokens: Tensor, position: Tensor, bias: Tensor, past: list[Tensor], cross: list[Tensor]
    ) -> list[Tensor]:
        cache = StepCache(past, cross, position, bias.to(past[0].dtype))
        logits = self.lm(
            input_ids=tokens.reshape(-1, 1),
            position_ids=(position + cross[0].shape[2])[None],
            attention_mask=torch.zeros(1, 1, 1, 1, dtype=past[0].dtype),
            use_cache=False,
            ld4lg_cache=cache,
        ).logits
        return [logits[:, 0].float().unflatten(0, tokens.shape), *cache.present]


def check_causal(autoencoder: LanguageAutoencoder) -> None:
    """Checks that a decoder-only model can be exported.

    Raises:
        ConfigError: attention that caps its scores, or that sees fewer tokens than a text has.
    """
    config: Any = autoencoder.lm.config.get_text_config()
    if getattr(config, "attn_logit_softcapping", None) is not None:
        raise ConfigError(
            f"Language models of the family {config.model_type!r} cannot be exported, as they cap attention scores."
        )
    window = getattr(config, "sliding_window", None)
    longest = autoencoder.max_len + autoencoder.num_latents + 1
    if window is not None and window < longest:
        raise ConfigError(
            f"A language model whose attention sees {window} tokens cannot be exported for texts of {longest} with "
            "their soft prefix; train with a lower dataset.max_len."
        )
