"""The kernels as ``torch.ops.ld4lg``: one schema for all devices, one implementation for each.

`ops` holds the public functions; only they call ``torch.ops.ld4lg``. CPU tensors go to an operation's ``cpu.py``, CUDA
tensors to its ``triton.py``; both are imported on the first call, since Triton is optional.

torch caches compiled graphs on disk under the operators' names, so an operator whose schema changes needs a new
name.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Parameter

from ld4lg_fast.kernels.backend import INTERPRETED

LIBRARY = torch.library.Library("ld4lg", "DEF")
_direct: dict[tuple[str, str], Callable] = {}  # the implementation by operation and device
_differentiable: dict[str, type[torch.autograd.Function]] = {}
_PLAIN = frozenset({Tensor, Parameter, int, float, bool, list, type(None)})
IMPLEMENTATIONS: dict[
    str, tuple[str, str]
] = {}  # "ld4lg::op" -> its folder, and the function in cpu.py and triton.py


def register(schema: str, fake: Callable, check: Callable, module: str, function: str) -> None:
    """Defines an operation that ``<module>/cpu.py`` and ``<module>/triton.py`` implement under the same name.

    ``fake`` gives the outputs' shapes, dtypes and strides for tracing. ``check`` refuses arguments that do not fit. It
    runs in calls through ``torch.ops.ld4lg``; the public functions call their own checks.
    """
    name = schema.split("(")[0]
    IMPLEMENTATIONS[f"ld4lg::{name}"] = module, function
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device, file in (("cpu", "triton" if INTERPRETED else "cpu"), ("cuda", "triton")):
        call = _on_first_call(f"ld4lg_fast.kernels.{module}.{file}", function)
        call = _on_its_gpu(call) if device == "cuda" else call
        _direct[name, device] = call
        LIBRARY.impl(name, _checked(check, call), device.upper())
    torch.library.register_fake(f"ld4lg::{name}", fake, lib=LIBRARY)


def operator(name: str, placed: int = 0) -> Callable:
    """``ld4lg::name``, for public functions and derivatives; argument ``placed`` is a tensor on the device.

    Without tracing it calls the implementation directly, with an autograd function of its own: torch's dispatcher
    costs as much as a small kernel, and the derivative of an operator in Python several times that.
    """
    registered = getattr(torch.ops.ld4lg, name).default

    def call(*arguments: Any) -> Any:
        tensor = arguments[placed]
        device = "cpu" if tensor.is_cpu else tensor.device.type
        direct = None if is_traced(*arguments) else _direct.get((name, device))
        if direct is None:
            return registered(*arguments)
        if not need_gradients(arguments):
            return direct(*arguments)
        return _differentiable[name].apply(*arguments) if name in _differentiable else registered(*arguments)

    return call


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """Gives ``ld4lg::name`` its derivative."""
    torch.library.register_autograd(f"ld4lg::{name}", backward, setup_context=setup_context, lib=LIBRARY)

    def forward(ctx: Any, *arguments: Any) -> Any:
        outputs = _direct[name, arguments[0].device.type](*arguments)
        setup_context(ctx, arguments, outputs)
        return outputs

    methods = {"forward": staticmethod(forward), "backward": staticmethod(once_differentiable(backward))}
    _differentiable[name] = type(name, (torch.autograd.Function,), methods)


def need_gradients(arguments: tuple) -> bool:
    """Whether autograd has to record a call with these arguments."""
    return torch.is_grad_enabled() and any(a.requires_grad for a in arguments if isinstance(a, Tensor))


def is_traced(*arguments: object) -> bool:
    """Whether a compiler, an exporter, a mode, a transform or a subclass of Tensor has to see the call."""
    return (
        torch.compiler.is_compiling()
        or not _PLAIN.issuperset(map(type, arguments))
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def _checked(check: Callable, call: Callable) -> Callable:
    def checked(*args: Any) -> Any:
        check(*args)
        return call(*args)

    return checked


def _on_first_call(module: str, function: str) -> Callable:
    loaded: list[Callable] = []

    def call(*args: Any) -> Any:
        if not loaded:
            loaded.append(getattr(import_module(module), function))
        return loaded[0](*args)

    return call


def _on_its_gpu(call: Callable) -> Callable:
    """Makes the tensors' GPU the current one, on which Triton launches."""

    def guarded(*args: Any) -> Any:
        tensor = next(a for a in args if isinstance(a, Tensor))
        if tensor.device.index == torch.cuda.current_device():
            return call(*args)
        with torch.cuda.device(tensor.device):
            return call(*args)

    return guarded
