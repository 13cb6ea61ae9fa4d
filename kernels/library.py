"""The kernels as ``torch.ops.ld4lg``: one schema for all devices, one implementation for each.

`ops` is the door; nobody else calls ``torch.ops.ld4lg``. CPU tensors go to ``cpu/``, CUDA tensors to
``triton/``; both are imported on the first call, since Triton is optional.

torch keeps compiled graphs on disk under the operators' names: an operator whose schema changes needs a new
name.
"""

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor

from ld4lg_fast.kernels.backend import INTERPRETED

LIBRARY = torch.library.Library("ld4lg", "DEF")
_direct: dict[tuple[str, str], Callable] = {}
IMPLEMENTATIONS: dict[str, tuple[str, str]] = {}  # "ld4lg::op" -> its module and function in cpu/ and triton/


def register(schema: str, fake: Callable, module: str, function: str) -> None:
    """Defines an operation that ``cpu/<module>.py`` and ``triton/<module>.py`` implement under the same name.

    ``fake`` gives the outputs' shapes, dtypes and strides for tracing.
    """
    name = schema.split("(")[0]
    IMPLEMENTATIONS[f"ld4lg::{name}"] = module, function
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device, folder in (("cpu", "triton" if INTERPRETED else "cpu"), ("cuda", "triton")):
        call = _on_first_call(f"ld4lg_fast.kernels.{folder}.{module}", function)
        _direct[name, device] = call
        LIBRARY.impl(name, call, device.upper())
    torch.library.register_fake(f"ld4lg::{name}", fake, lib=LIBRARY)


def operator(name: str, placed: int = 0) -> Callable:
    """``ld4lg::name``, for the doors; argument number ``placed`` is a tensor on the device that is meant.

    Where nothing is traced or differentiated the implementation is called as it is: torch's dispatcher costs as
    much as a small kernel.
    """
    registered = getattr(torch.ops.ld4lg, name).default

    def call(*arguments):
        if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
            return registered(*arguments)
        tensor = arguments[placed]
        direct = _direct.get((name, tensor.device.type)) if type(tensor) is Tensor else None
        return (direct or registered)(*arguments)

    return call


def register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    """Gives ``ld4lg::name`` its derivative."""
    torch.library.register_autograd(f"ld4lg::{name}", backward, setup_context=setup_context, lib=LIBRARY)


def _on_first_call(module: str, function: str) -> Callable:
    loaded: list[Callable] = []

    def call(*args):
        if not loaded:
            loaded.append(getattr(import_module(module), function))
        return loaded[0](*args)

    return call
