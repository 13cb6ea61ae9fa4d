"""Building blocks shared by the denoisers and the Perceiver.

Letters: B batch, N query positions, M key positions, D model width, H heads of width 64.

Fused weights (q, k, v in one matrix) keep the plain checkpoint layout: `store_in_parts` splits them when a
state dict is taken and joins them when one is loaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.attention_backends import DIM_HEAD, AttentionModule, attention
from ld4lg_fast.models.packed_sequences import Varlen


def store_in_parts(module: nn.Module, fused: str, parts: Sequence[str]) -> None:
    """Stores the Linear ``module.<fused>`` in state dicts as equal row blocks named ``parts``."""

    def split(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        for kind in ("weight", "bias"):
            if (tensor := state.pop(f"{prefix}{fused}.{kind}", None)) is not None:
                for name, part in zip(parts, tensor.chunk(len(parts)), strict=True):
                    state[f"{prefix}{name}.{kind}"] = part

    def join(module: nn.Module, state: dict, prefix: str, *args: object) -> None:
        for kind in ("weight", "bias"):
            keys = [f"{prefix}{name}.{kind}" for name in parts]
            if all(key in state for key in keys):
                state[f"{prefix}{fused}.{kind}"] = torch.cat([state.pop(key) for key in keys])

    module.register_state_dict_post_hook(split)
    module.register_load_state_dict_pre_hook(join)


def compute_dtype(weight: Tensor) -> torch.dtype:
    """The dtype of a matmul with ``weight``: autocast's if enabled, else the weight's."""
    device = weight.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype


def project_to_sphere(x: Tensor) -> Tensor:
    """Projects each latent vector to the sphere of radius √d (l2-normalised latents)."""
    return F.normalize(x, dim=-1) * math.sqrt(x.shape[-1])


def attention_bias(query_mask: Tensor, key_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask (B, 1, N, M) from boolean masks (B, N) and (B, M), True = keep.

    Excluded pairs get the lowest finite number rather than -inf, so that a row with no key at all attends
    uniformly instead of turning into NaN, as published (golden NOTES 9).
    """
    allowed = query_mask[:, None, :, None] & key_mask[:, None, None, :]
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def check_mask(name: str, mask: Tensor | None, shape: tuple[int, ...]) -> Tensor | None:
    """The mask as booleans, or None.

    Raises:
        ConfigError: a mask of another shape than ``shape`` (batch, positions).
    """
    if mask is not None and not isinstance(mask, Tensor):
        raise ConfigError(f"{name} is {shown(mask)}; it must be a tensor of the shape {shape}, True = keep.")
    if mask is not None and mask.shape != shape:
        raise ConfigError(f"{name} has the shape {tuple(mask.shape)}; it must be {shape}, True = keep.")
    return None if mask is None else mask.bool()


def twice(x: Tensor) -> Tensor:
    """(B, …) -> (2B, …): the conditional and the unconditional half of a guided batch."""
    return torch.cat([x, x])


@dataclass(frozen=True)
class Modulation:
    """Time and class inputs of a denoiser's blocks, with R rows: B, or 1 for all samples.

    ``embedding`` (R, 1, D) is added to the input; ``table`` (R, 1, 2·L·D) holds each block's scale and shift (None
    in a model without).
    """

    embedding: Tensor
    table: Tensor | None

    def of_block(self, index: int) -> tuple[Tensor, Tensor]:
        """Scale and shift (R, 1, D) of a block."""
        dim = self.embedding.shape[-1]
        table = self.table.narrow(-1, 2 * index * dim, 2 * dim)  # type: ignore[union-attr]  # called only with a table
        scale, shift = table.chunk(2, dim=-1)
        return scale, shift

    def rows(self, index: Tensor) -> "Modulation":
        """The rows of ``index`` (R',)."""
        table = None if self.table is None else self.table.index_select(0, index)
        return Modulation(self.embedding.index_select(0, index), table)

    def overwrite(self, rows: "Modulation", first: int = 0) -> None:
        """Overwrites rows in place with others, from ``first`` on."""
        places = slice(first, first + len(rows.embedding))
        self.embedding[places] = rows.embedding
        if self.table is not None and rows.table is not None:
            self.table[places] = rows.table


class SinusoidalEmbedding(nn.Module):
    """Time (B,) -> (B, D) float32: sine half, then cosine half, frequencies 10000^(-k/(D/2-1))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        half = self.dim // 2
        exponent = torch.arange(half, device=time.device) * -(math.log(10000) / (half - 1))
        angle = time.float()[:, None] * torch.exp(exponent)
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class PositionTable(nn.Embedding):
    """Learned absolute positions, scaled by width^-0.5; ``forward(length)`` gives (length, D)."""

    def forward(self, length: int) -> Tensor:  # type: ignore[override]  # an Embedding takes ids
        if length > self.num_embeddings:
            raise ConfigError(
                f"The sequence has {length} positions, but this model was built for at most "
                f"{self.num_embeddings}; shorten it or train a model with a larger max_len."
            )
        return self.weight[:length] * self.embedding_dim**-0.5


class HeadRMSNorm(nn.Module):
    """RMS norm of each head of q or k: x / max(‖x‖·64^-0.5, 1e-8)·γ, with ``gamma`` (64,) shared by the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(DIM_HEAD))

    def forward(self, heads: Tensor) -> Tensor:
        """(…, 64) -> the same shape and dtype; `ops.short_attention` does this itself, given ``gamma``."""
        wide = heads.float()
        norm = wide.norm(dim=-1, keepdim=True) * DIM_HEAD**-0.5
        return (wide / norm.clamp(min=1e-8) * self.gamma).to(heads.dtype)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    rows: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """`attention_backends.attention` with its ``options``, and padded queries that attend uniformly.

    ``rows`` (B, N): the real queries, or None. Padded queries attend uniformly by their bias, but SDPA's backward on a
    CPU is wrong for rows without an allowed key (adding the lowest finite number loses the log of the number of keys).
    So where gradients need such rows, their output is computed here.
    """
    out = attention(q, k, v, bias, **options)
    return out if rows is None else torch.where(rows[..., None], out, v.mean(dim=1, keepdim=True))


class SelfAttention(AttentionModule):
    """Multi-head self-attention without biases; q, k, v are one matrix, stored as to_q, to_k, to_v.

    ``heads`` are 64 wide; None means as many as fill ``dim``. ``qk_norm``: q and k are RMS-normalised per head
    (Henry et al. 2020; Dehghani et al. 2023).
    """

    def __init__(
        self, dim: int, dropout: float = 0.0, heads: int | None = None, qk_norm: bool = False
    ) -> None:
        super().__init__()
        inner = heads * DIM_HEAD if heads else dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        norms = (HeadRMSNorm() for _ in range(2 if qk_norm else 0))
        self.norms: Sequence[HeadRMSNorm] = nn.ModuleList(norms)  # type: ignore[assignment]  # of any modules
        self.dropout = dropout
        store_in_parts(self, "qkv", ("to_q", "to_k", "to_v"))

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        rows: Tensor | None = None,
        varlen: Varlen | None = None,
    ) -> Tensor:
        """x (B, N, D); ``bias``, broadcastable to (B, H, N, N), is added to the scores; ``rows``: `attend`;
        ``varlen``: lengths of packed sequences, x is then (G, T, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        options = {"dropout": self.dropout if self.training else 0.0, "backend": self.attn_implementation}
        return self.to_out(attend(q, k, v, bias, rows, norms=self.norms, varlen=varlen, **options))


class CrossAttention(AttentionModule):
    """Attention from x to a context of the same width; k, v are one matrix, stored as to_k, to_v.

    ``heads`` as in `SelfAttention`.
    """

    def __init__(self, dim: int, dropout: float = 0.0, heads: int | None = None) -> None:
        super().__init__()
        inner = heads * DIM_HEAD if heads else dim
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.dropout = dropout
        store_in_parts(self, "kv", ("to_k", "to_v"))

    def forward(
        self,
        x: Tensor,
        keys_values: Tensor,
        bias: Tensor | None = None,
        rows: Tensor | None = None,
        varlen: Varlen | None = None,
    ) -> Tensor:
        """x (B, N, D) attends to a context of which ``keys_values`` (B, M, 2·H·64) = ``kv(context)`` are given, so
        that a fixed one is projected once; ``bias`` is added to the scores, broadcastable to (B, H, N, M).
        ``rows``, ``varlen``: as in `SelfAttention`."""
        k, v = keys_values.chunk(2, dim=-1)
        options = {"dropout": self.dropout if self.training else 0.0, "backend": self.attn_implementation}
        return self.to_out(attend(self.to_q(x), k, v, bias, rows, varlen=varlen, **options))


def add_and_norm(branch: Tensor, residual: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """The end of a sub-block and the pre-norm of the next: ``x = residual + branch`` and ``norm(x)``."""
    return ops.add_layer_norm(branch, residual, norm.weight, norm.bias, norm.eps)


class GEGLUFeedForward(nn.Module):
    """Linear(D, 8D) -> value | gate -> value·GELU(gate) -> dropout -> Linear(4D, D) (Shazeer 2020)."""

    def __init__(self, dim: int, dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(dim, 2 * mult * dim)
        self.dropout = dropout
        self.proj_out = nn.Linear(mult * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        seed = torch.randint(2**62, (1,), device=x.device) if dropout else None
        return self.proj_out(ops.geglu_linear(x, self.proj_in.weight, self.proj_in.bias, dropout, seed))
