"""Our attention backends, registered as attention implementations of transformers.

`ops.short_attention` serves training in bfloat16 on a CPU; FlashAttention serves passes over whole texts on a GPU:
encoding, teacher-forced training, scoring. `decoding.stack`, which decodes token by token, has its own attention.

Letters: B batch, H heads, G heads of keys and values, N queries, M keys, d width of a head.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.attention_backends import DIM_HEAD, SHORT, flash_attention, set_attn_implementation
from ld4lg_fast.models.packed_sequences import Lengths, PackedSequences, Varlen

NAME = "ld4lg_short"
FLASH = "ld4lg_varlen"  # transformers loads packages of its own for names with "flash"


def set_lm_attention(lm: PreTrainedModel, name: str) -> None:
    """Has a language model use a backend of `attention_backends.BACKENDS`; ``auto`` is transformers' choice, or SDPA.

    ``short_attention`` leaves what it has no case for to SDPA, see `use_short_attention`.

    Raises:
        ConfigError: FlashAttention for a model that adds a bias to its scores.
    """
    if name == "auto" and lm.config._attn_implementation not in (NAME, FLASH):
        return
    if name == "flash_attn" and hasattr(lm.config, "relative_attention_num_buckets"):
        raise ConfigError(
            f"attn_implementation=flash_attn adds no bias to attention scores, and {lm.config.model_type} has relative "
            "position biases; choose auto or sdpa."
        )
    lm.set_attn_implementation({"flash_attn": FLASH, "short_attention": NAME}.get(name, "sdpa"))


def set_attention(autoencoder: nn.Module, name: str) -> None:
    """Has a language autoencoder, its ``lm`` and its Perceiver, use a backend that `check_attn_implementation` passes.

    Raises:
        ConfigError: see `set_lm_attention`; or FlashAttention for a decoder-only model that is read bidirectionally.
    """
    if name == "flash_attn" and autoencoder.reading.bidirectional:  # type: ignore[union-attr]  # of an autoencoder
        raise ConfigError(
            "attn_implementation=flash_attn knows causal attention alone of a decoder-only model, and this one is read "
            "with autoencoder.bidirectional=true; choose auto or sdpa."
        )
    set_lm_attention(autoencoder.lm, name)  # type: ignore[arg-type]  # a language model
    set_attn_implementation(autoencoder, name)


def use_short_attention(lm: PreTrainedModel, device: torch.device) -> None:
    """Selects `ops.short_attention` on a CPU in bfloat16, where the backward pass of PyTorch's SDPA is slow."""
    if device.type == "cpu":
        lm.set_attn_implementation(NAME)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Tensor, None]:
    """(B, H, N, d), (B, G, M, d) and a mask (B, 1, N, M), bool or float, to (B, N, H, d), as transformers has it.

    PyTorch's own in float32, where it is no slower, and where ours has no such case: dropout, heads of another width,
    scores that are scaled otherwise or have a bias of their own (T5).
    """
    _, heads, _, dim = query.shape
    fits = value.dtype == torch.bfloat16 and dim == DIM_HEAD
    plain = not dropout and scaling in (None, DIM_HEAD**-0.5) and options.get("position_bias") is None
    if not (fits and plain):
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    # Rotary positions are float32 under autocast. Heads of grouped queries share keys.
    query, key = query.to(value.dtype), key.to(value.dtype)
    if (groups := heads // key.shape[1]) > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    longest = max(query.shape[2], key.shape[2])
    bias, lowest = attention_mask, torch.finfo(query.dtype).min
    if bias is not None and bias.dtype == torch.bool:
        bias = torch.zeros(bias.shape, dtype=query.dtype).masked_fill_(~bias, lowest)
    elif bias is not None:
        bias = bias.clamp(min=lowest).to(query.dtype)
    if longest > SHORT:
        return _by_matmuls(query, key, value, bias).transpose(1, 2), None
    q, k, v = (x.transpose(1, 2).flatten(2) for x in (query, key, value))
    return ops.short_attention(q, k, v, bias).unflatten(-1, (heads, dim)), None


def _by_matmuls(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Attention (B, H, N, d) of more positions than `ops.short_attention` takes.

    Forward and backward take 4 ms for (16, 2, 160, 64) in bfloat16 on two cores with AMX, those of PyTorch's SDPA 11.
    """
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1, dtype=torch.float32).to(v.dtype) @ v


def _flash_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """FlashAttention in transformers' form, see `_attention`; keys that a mask hides are not computed.

    A mask of pairs, as `LanguageAutoencoder` gives it, is the triangle alone if the attention is causal, and the same
    for all queries otherwise.
    """
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    causal = (getattr(module, "is_causal", False) if is_causal is None else is_causal) and q.shape[1] > 1
    common: dict[str, Any] = {"scale": scaling, "dropout": dropout, "causal": causal}
    of_pairs = attention_mask is not None and attention_mask.dim() == 4
    if attention_mask is None or (causal and of_pairs):
        return flash_attention(q, k, v, **common), None
    keep = attention_mask.bool()
    if of_pairs:
        first = attention_mask[:, 0, 0]
        keep = first if first.dtype == torch.bool else first == 0
    packed = PackedSequences.of(keep.expand(*k.shape[:2]))
    queries = packed.lengths if causal else Lengths.equal(q.shape[0], q.shape[1], q.device)
    q_packed = packed.pack(q)[0] if causal else q.flatten(0, 1)
    varlen = Varlen(queries, packed.lengths)
    out = flash_attention(q_packed, packed.pack(k)[0], packed.pack(v)[0], varlen, **common)
    return (packed.unpack(out.flatten(1)[None]) if causal else out).view(q.shape), None


def _padding(*arguments: Any, attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
    """The mask of tokens (B, M) as it is."""
    return attention_mask


def _mask(*arguments: Any, **options: Any) -> Tensor | None:
    """The mask in full: a causal one is not left to the attention."""
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False})


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
AttentionInterface.register(FLASH, _flash_attention)
AttentionMaskInterface.register(FLASH, _padding)
