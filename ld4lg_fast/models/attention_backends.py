"""Attention backends: PyTorch's SDPA, the short-attention kernel and the FlashAttention packages.

| backend | what runs |
|---|---|
| ``auto`` | `short_attention` on a CPU; on a GPU FlashAttention where `choose` says it is faster, else SDPA |
| ``sdpa`` | ``torch.nn.functional.scaled_dot_product_attention`` |
| ``flash_attn`` | the newest FlashAttention package that is installed and runs on the GPU (Dao 2023) |
| ``short_attention`` | `ops.short_attention`, which has rules of its own for devices and lengths |

FlashAttention adds no bias to the scores; what takes the place of masks and relative positions is in
`packed_sequences`.

Letters: B batch, N query positions, M key positions, T positions of packed sequences, H heads of width K.
"""

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend as kernels
from ld4lg_fast.kernels import ops
from ld4lg_fast.models.packed_sequences import Varlen
from ld4lg_fast.options.checks import check_choice

BACKENDS = ("auto", "sdpa", "flash_attn", "short_attention")

# Shortest sequences for which ``auto`` takes a FlashAttention package. Below 150 to 200 positions SDPA is faster than
# version 2 (Dao-AILab/flash-attention, issue 591); versions 3 and 4 have published figures from 512 on (Shah et al.
# 2024, figure 5).
AUTO_FROM = {2: 200, 3: 512, 4: 512}

HALF = (torch.bfloat16, torch.float16)
DIM_HEAD = 64
SHORT = 128  # positions that `ops.short_attention` takes at most


@dataclass(frozen=True)
class FlashPackage:
    """A FlashAttention release line: where it is imported from, and which GPUs and options it has.

    Attributes:
        majors: first and last major number of the compute capability. extra: of ld4lg-fast, or None.
        has_dropout: whether its functions take ``dropout_p``.
    """

    version: int
    distribution: str
    module: str
    majors: tuple[int, int]
    has_dropout: bool
    extra: str | None


PACKAGES = (
    FlashPackage(4, "flash-attn-4", "flash_attn.cute", (9, 12), False, "flash-attn-4"),
    FlashPackage(3, "flash-attn-3", "flash_attn_interface", (9, 9), False, None),
    FlashPackage(2, "flash-attn", "flash_attn", (8, 12), True, "flash-attn"),
)


def installed_version(package: FlashPackage) -> str | None:
    """By the distribution's name: flash-attn and flash-attn-4 share the folder ``flash_attn``."""
    try:
        return importlib.metadata.version(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def capability(device: torch.device) -> tuple[int, int] | None:
    """Compute capability of an NVIDIA GPU; None for any other device."""
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_capability(device)


def _functions(package: FlashPackage) -> tuple[Callable, Callable]:
    """Its function for sequences of one length, and that for packed ones."""
    module = importlib.import_module(package.module)
    return module.flash_attn_func, module.flash_attn_varlen_func


@cache
def unusable_reason(
    package: FlashPackage, device: torch.device, width: int = DIM_HEAD, dropout: bool = False
) -> str | None:
    """Why a package cannot compute heads of ``width`` on ``device``, with or without dropout; None where it can."""
    if installed_version(package) is None:
        remedy = "build it from the folder hopper of Dao-AILab/flash-attention"
        if package.extra is not None:
            remedy = f"pip install 'ld4lg-fast[{package.extra}]'"
        return f"the package {package.distribution} is not installed ({remedy})"
    found, (first, last) = capability(device), package.majors
    if found is None:
        return f"{package.distribution} needs an NVIDIA GPU, not {device.type}"
    if not first <= found[0] <= last:
        return (
            f"{package.distribution} is for compute capability {first}.x to {last}.x, and the GPU has "
            f"{found[0]}.{found[1]}"
        )
    # Version 4 has 256 on Hopper alone (flash_attn/cute/interface.py, _validate_head_dims).
    widest = 128 if package.version == 4 and found[0] != 9 else 256
    if width > widest or width % 8:
        return f"{package.distribution} takes heads of a multiple of 8 up to {widest} wide, not {width}"
    if dropout and not package.has_dropout:
        return f"{package.distribution} has no dropout on attention probabilities"
    try:
        _functions(package)
    except (ImportError, AttributeError, OSError) as error:
        return f"{package.distribution} cannot be imported: {error}"
    return None


@torch.compiler.assume_constant_result  # a compiler need not see how packages are looked for
def usable_package(device: torch.device, width: int, dropout: bool) -> FlashPackage | None:
    """The newest package that computes such heads, or None."""
    return next((p for p in PACKAGES if unusable_reason(p, device, width, dropout) is None), None)


def check_attn_implementation(name: str, option: str = "attn_implementation") -> None:
    """Refuses unknown names, and ``flash_attn`` on a machine where no package can run.

    The device and dtype of tensors are checked in `flash_attention`: models are moved and cast after they are loaded.

    Raises:
        ConfigError: naming the option and the reason.
    """
    check_choice(option, name, BACKENDS)
    device = torch.device("cuda", 0)
    if name == "flash_attn" and usable_package(device, DIM_HEAD, False) is None:
        raise ConfigError(_refusal(device, DIM_HEAD, False, option))


def _refusal(device: torch.device, width: int, dropout: bool, option: str = "attn_implementation") -> str:
    installed = [p for p in PACKAGES if installed_version(p) is not None] or [PACKAGES[-1]]
    if capability(device) is None:
        reason = f"it needs an NVIDIA GPU that torch can use, and here is {_shown(device)}"
    else:
        reason = "; ".join(filter(None, (unusable_reason(p, device, width, dropout) for p in installed)))
    return f"{option}=flash_attn cannot run here: {reason}. Choose auto or sdpa."


def _shown(device: torch.device) -> str:
    return "none" if device.type == "cuda" else f"a tensor on {device.type}"


class AttentionModule(nn.Module):
    """A module that computes attention by the backend of its name; see `set_attn_implementation`."""

    attn_implementation: str = "auto"


def set_attn_implementation(model: nn.Module, name: str) -> None:
    """Has all our attention modules in ``model`` use a backend of `BACKENDS`, checked before."""
    for module in model.modules():
        if isinstance(module, AttentionModule):
            module.attn_implementation = name


def choose(
    backend: str,
    device: torch.device,
    dtype: torch.dtype,
    longest: int,
    *,
    dropout: float = 0.0,
    has_bias: bool = False,
) -> str:
    """The backend of our networks' attention: ``auto`` becomes what is fastest, other names stay."""
    if backend != "auto":
        return backend
    if device.type == "cuda" and dtype in HALF and longest >= min(AUTO_FROM.values()) and not has_bias:
        package = usable_package(device, DIM_HEAD, bool(dropout))
        if package is not None and longest >= AUTO_FROM[package.version]:
            return "flash_attn"
    return "sdpa" if dropout else "short_attention"


@torch.compiler.disable  # packages bring kernels of their own; a compiler goes on before and after them
def flash_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    varlen: Varlen | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
    causal: bool = False,
) -> Tensor:
    """FlashAttention of (B, N, H, K) to (B, M, H, K), or of packed (T, H, K) with their lengths; as q.

    Args:
        scale: of the scores, by default K^-0.5. causal: a query sees no later key, aligned at the end.

    Raises:
        ConfigError: tensors that are not half precision, or that no installed package computes on their device.
    """
    width = q.shape[-1]
    scale = width**-0.5 if scale is None else scale
    if varlen is not None and varlen.bias_columns is not None:
        q, k = (torch.cat(parts, dim=-1) for parts in zip((q, k), varlen.bias_columns, strict=True))
        v = F.pad(v, (0, k.shape[-1] - width))
    package = usable_package(q.device, q.shape[-1], bool(dropout))
    if package is None:
        raise ConfigError(_refusal(q.device, q.shape[-1], bool(dropout)))
    if q.dtype not in HALF:
        raise ConfigError(
            f"attn_implementation=flash_attn computes in bfloat16 or float16, not {q.dtype}; use "
            "pipe.to(torch.bfloat16) or train.mixed_precision=bf16, or choose auto or sdpa."
        )
    options = {"softmax_scale": scale, "causal": causal} | ({"dropout_p": dropout} if dropout else {})
    fixed, packed = _functions(package)
    if varlen is None:
        out = fixed(q, k, v, **options)
    else:
        queries, keys = varlen.queries, varlen.keys
        out = packed(
            q,
            k,
            v,
            cu_seqlens_q=queries.cu_seqlens,
            cu_seqlens_k=keys.cu_seqlens,
            max_seqlen_q=queries.longest,
            max_seqlen_k=keys.longest,
            **options,
        )
    out = out[0] if isinstance(out, tuple) else out  # versions 3 and 4 may add the log-sum-exp
    return out[..., :width]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    norms: Sequence[Any] = (),
    dropout: float = 0.0,
    backend: str = "auto",
    varlen: Varlen | None = None,
) -> Tensor:
    """Attention of our networks: q (B, N, H·64) to k, v (B, M, H·64), as q.

    Args:
        bias: broadcastable to (B, H, N, M), added to the scores.
        norms: the `HeadRMSNorm` of q and that of k, or none.
        dropout: on the attention probabilities. backend: one of `BACKENDS`.
        varlen: lengths of packed sequences; q, k and v are then (G, T, H·64) and FlashAttention computes them.

    Raises:
        ConfigError: a backend that was asked for by name cannot compute these tensors.
    """
    longest, name = max(q.shape[1], k.shape[1]), "flash_attn"
    if varlen is None:
        has_bias = bias is not None
        name = choose(backend, q.device, q.dtype, longest, dropout=dropout, has_bias=has_bias)
    if name == "short_attention":
        if backend == name:
            _check_short(q, longest, dropout)
        return ops.short_attention(q, k, v, bias, *(norm.gamma for norm in norms))
    heads = [x.unflatten(-1, (-1, DIM_HEAD)) for x in (q, k, v)]
    if name == "sdpa":
        heads = [x.transpose(1, 2) for x in heads]
    if norms:
        heads[:2] = norms[0](heads[0]), norms[1](heads[1])
    if name == "sdpa":
        queries, keys, values = heads
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropout)
        return out.transpose(1, 2).flatten(2)
    if bias is not None:
        raise ConfigError(
            "attn_implementation=flash_attn adds no bias to attention scores, which this model's relative positions "
            "or masks need; choose auto or sdpa."
        )
    if varlen is not None:
        heads = [x.flatten(0, 1) for x in heads]
    return flash_attention(*heads, varlen, dropout=dropout).reshape(q.shape)


def _check_short(q: Tensor, longest: int, dropout: float) -> None:
    """Refuses what `ops.short_attention` would leave to SDPA.

    Raises:
        ConfigError: naming the reason.
    """
    reason = None
    if dropout:
        reason = "it has no dropout on attention probabilities"
    elif longest > SHORT:
        reason = f"it takes at most {SHORT} positions, not {longest}"
    elif kernels.current_backend() == "auto" and kernels.choose(
        "short_attention", q.device.type, (q.dtype,)
    ) in ("reference", "triton"):
        reason = f"its kernel is for a CPU, float32 and bfloat16, and these are {q.dtype} on {q.device.type}"
        if q.device.type == "cpu" and (missing := kernels.unavailable_reason("native")) is not None:
            reason = missing
    if reason is not None:
        raise ConfigError(
            f"attn_implementation=short_attention cannot run here: {reason}. Choose auto or sdpa."
        )
