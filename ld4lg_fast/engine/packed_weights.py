"""Models with packed weights for a device and a precision, cached until their weights change."""

import copy
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ld4lg_fast.diffusion.latent_diffusion import AnyDenoiser
from ld4lg_fast.engine.precision import (
    Fp8Linear,
    Int8Linear,
    InvariantLinear,
    NarrowCpuLinear,
    Pack,
    PlainLinear,
    checked_precision,
    choose_linear,
)
from ld4lg_fast.engine.regional_compile import compile_regions, is_compiled
from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.models.layers import GEGLUFeedForward

T = TypeVar("T")
Module = TypeVar("Module", bound=nn.Module)
Denoiser = TypeVar("Denoiser", bound=AnyDenoiser)

_prepared: WeakKeyDictionary[nn.Module, dict[object, tuple[tuple, Any]]] = WeakKeyDictionary()
_preparing = threading.RLock()


def prepared_once(module: nn.Module, key: object, make: Callable[[], T]) -> T:
    """The cached result of ``make()`` for a module; ``make`` is called again after a weight has changed.

    Concurrent threads wait for the first of them.
    """
    state = tuple(
        (tensor.data_ptr(), tensor._version) for tensor in (*module.parameters(), *module.buffers())
    )
    with _preparing:
        kept = _prepared.setdefault(module, {})
        if key not in kept or kept[key][0] != state:
            kept[key] = (state, make())
        return kept[key][1]


class PreparedLinear(nn.Module):
    """A Linear whose matmul has packed weights."""

    def __init__(self, linear: nn.Linear, pack: Pack) -> None:
        super().__init__()
        self.matmul = pack(linear.weight.detach(), linear.bias)
        self.weight = linear.weight.detach().new_empty(0)  # of which the networks ask dtype and device

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class PreparedFeedForward(nn.Module):
    """A `GEGLUFeedForward` whose matmuls have packed weights, fused with the GEGLU where a kernel supports it."""

    def __init__(self, feed_forward: GEGLUFeedForward, pack: Pack) -> None:
        super().__init__()
        first, second = feed_forward.proj_in, feed_forward.proj_out
        weight = first.weight.detach()
        self.bias: Tensor | None = first.bias
        narrow = isinstance(pack, type) and issubclass(pack, NarrowCpuLinear)
        self.first = pack(weight, first.bias, geglu=True) if narrow else pack(weight, None)
        if narrow:
            self.bias = None
        self.second = pack(second.weight.detach(), second.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x.flatten(0, -2))
        if isinstance(self.second, Fp8Linear):
            out = self.second.matmul(*ops.quantize_rows(hidden, self.bias))
        else:
            out = self.second(hidden if self.bias is None else ops.geglu(hidden, self.bias))
        return out.unflatten(0, x.shape[:-1])


def prepared_denoiser(denoiser: Denoiser, precision: str | None, deterministic: bool = False) -> Denoiser:
    """The denoiser with packed weights in its blocks and skips; other parts are shared with it, or cast.

    Args:
        precision: one of `precision.PRECISIONS`; None is that of the weights.
        deterministic: packs all weights, so that no sample's output depends on the others of its batch.

    Raises:
        ConfigError: a precision that this device does not support.
    """
    weight, precision = denoiser.input_proj.weight, checked_precision(precision)
    dtype, pack = choose_linear(precision, weight.dtype, weight.device, deterministic=deterministic)
    if pack is Int8Linear and backend.has_fast_bf16():
        dtype = torch.bfloat16  # its 8 significant bits suffice for inputs that are quantized to int8
    if dtype == weight.dtype and pack is PlainLinear:
        return denoiser
    compiles = is_compiled(denoiser)

    def make() -> Denoiser:
        plain = denoiser
        if dtype != weight.dtype:
            plain = copy.deepcopy(denoiser)
            plain.to(dtype)  # in place
        if pack is not PlainLinear:  # torch.compile cannot optimize these matmuls
            return _prepared_twin(plain, pack, deterministic)
        if compiles:
            compile_regions(plain)
        return plain

    attention = denoiser.attn_implementation
    return prepared_once(denoiser, (precision, deterministic, denoiser.training, compiles, attention), make)


def _prepared_twin(denoiser: Denoiser, pack: Pack, deterministic: bool) -> Denoiser:
    twin = _twin(denoiser)
    packs: dict[str, Pack] = {"blocks": pack, "dense_projections": pack}
    if deterministic:
        is_wide = denoiser.input_proj.weight.dtype == torch.float32
        others: Pack = InvariantLinear if is_wide else NarrowCpuLinear
        packs = dict.fromkeys(twin._modules, others) | packs
    if denoiser.input_proj.weight.dtype == torch.bfloat16 and backend.has_fast_bf16():
        packs["modulation"] = NarrowCpuLinear  # few rows (all steps at once) and the largest weight
    for name in packs.keys() & twin._modules.keys():
        twin._modules[name] = _with_packed_weights(twin.get_submodule(name), packs[name])
    return twin


def _twin(module: Module) -> Module:
    """A shallow copy of a module, in which children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _with_packed_weights(module: nn.Module, pack: Pack) -> nn.Module:
    """A copy of the module in which every Linear has packed weights."""
    if isinstance(module, nn.Linear):
        return PreparedLinear(module, pack)
    if isinstance(module, GEGLUFeedForward):
        return PreparedFeedForward(module, pack)
    twin = _twin(module)
    for name, child in module.named_children():
        twin._modules[name] = _with_packed_weights(child, pack)
    return twin
