"""Models prepared for the processor and the precision that they run in, once for as long as their weights stay."""

import copy
from collections.abc import Callable
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ld4lg_fast.kernels import ops
from ld4lg_fast.layers import GEGLUFeedForward
from ld4lg_fast.linear import Int8Linear, Pack, PlainLinear, choose_linear

T = TypeVar("T")

_prepared: WeakKeyDictionary[nn.Module, dict[object, tuple[tuple, object]]] = WeakKeyDictionary()


def prepared_once(module: nn.Module, key: object, make: Callable[[], T]) -> T:
    """What ``make()`` prepares from the module's weights; it is called again when one of them has changed."""
    state = tuple(
        (tensor.data_ptr(), tensor._version) for tensor in (*module.parameters(), *module.buffers())
    )
    kept = _prepared.setdefault(module, {})
    if key not in kept or kept[key][0] != state:
        kept[key] = (state, make())
    return kept[key][1]


class PreparedLinear(nn.Module):
    """A Linear with its product prepared, with or without its bias."""

    def __init__(self, linear: nn.Linear, pack: Pack, with_bias: bool = True) -> None:
        super().__init__()
        self.product = pack(linear.weight.detach(), linear.bias if with_bias else None, False)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


class PreparedFeedForward(nn.Module):
    """A `GEGLUFeedForward` with its products prepared; the first one's bias is added by `ops.geglu`."""

    def __init__(self, proj_in: PreparedLinear, bias: Tensor, proj_out: PreparedLinear) -> None:
        super().__init__()
        self.proj_in, self.bias, self.proj_out = proj_in, bias, proj_out

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(ops.geglu(self.proj_in(x), self.bias))


def prepared_denoiser(
    denoiser: nn.Module, precision: str | None, exercise: Callable[[nn.Module], object]
) -> nn.Module:
    """The denoiser with the products of its blocks prepared; everything else is shared with it, or cast.

    Args:
        precision: one of `linear.PRECISIONS`; None is that of the weights.
        exercise: evaluates a denoiser as it will be used; int8 learns from it how large its inputs become.

    Raises:
        ConfigError: a precision that this device has no products for.
    """
    weight = denoiser.input_proj.weight
    dtype, pack = choose_linear(precision, weight.dtype, weight.device)
    if dtype == weight.dtype and pack is PlainLinear:
        return denoiser

    def make() -> nn.Module:
        plain = denoiser if dtype == weight.dtype else copy.deepcopy(denoiser).to(dtype)
        if pack is PlainLinear:
            return plain
        limits = None
        if pack is Int8Linear:
            watched = _with_blocks(plain, PlainLinear)
            limits = _input_limits(watched, partial(exercise, watched))
        return _with_blocks(plain, pack, limits)

    return prepared_once(denoiser, (precision, denoiser.training), make)


Limits = dict[str, tuple[float, float]]
"""The smallest and the largest number that reach a product, by its name in the denoiser."""


def _input_limits(watched: nn.Module, run: Callable[[], object]) -> Limits:
    """Of every `PreparedLinear`, while ``run()`` runs."""
    limits: Limits = {}

    def look(name: str, module: nn.Module, inputs: tuple[Tensor]) -> None:
        low, high = (limit.item() for limit in torch.aminmax(inputs[0]))
        before = limits.get(name, (low, high))
        limits[name] = (min(before[0], low), max(before[1], high))

    for name, module in watched.named_modules():
        if isinstance(module, PreparedLinear):
            module.register_forward_pre_hook(partial(look, name))
    run()
    return limits


def _with_blocks(denoiser: nn.Module, pack: Pack, limits: Limits | None = None) -> nn.Module:
    """The denoiser with every Linear of its blocks prepared."""
    twin = _twin(denoiser)
    twin._modules["blocks"] = _with_products(denoiser.blocks, "blocks", pack, limits)
    return twin


def _twin(module: nn.Module) -> nn.Module:
    """Another module with the same parameters and children, in which children can be replaced."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _with_products(module: nn.Module, name: str, pack: Pack, limits: Limits | None) -> nn.Module:
    """The module of that name with every Linear in it prepared, with ``limits`` for its input where they are known."""

    def prepare(linear: nn.Linear, place: str, with_bias: bool = True) -> PreparedLinear:
        if limits is None or place not in limits:
            return PreparedLinear(linear, pack, with_bias)
        return PreparedLinear(linear, partial(pack, limits=limits[place]), with_bias)

    if isinstance(module, nn.Linear):
        return prepare(module, name)
    if isinstance(module, GEGLUFeedForward):
        proj_in = prepare(module.proj_in, f"{name}.proj_in", with_bias=False)
        return PreparedFeedForward(proj_in, module.proj_in.bias, prepare(module.proj_out, f"{name}.proj_out"))
    twin = _twin(module)
    for key, child in module.named_children():
        twin._modules[key] = _with_products(child, f"{name}.{key}", pack, limits)
    return twin
