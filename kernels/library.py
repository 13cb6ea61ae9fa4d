"""The kernels as ``torch.ops.ld4lg``: one schema for all devices, one implementation for each.

`ops` is the door; nobody else calls ``torch.ops.ld4lg``. CPU tensors go to ``cpu/``, CUDA tensors to
``triton/``; both are imported on the first call, since Triton is optional.

torch keeps compiled graphs on disk under the operators' names: an operator whose schema changes needs a new
name.
"""

from collections.abc import Callable
from importlib import import_module

import torch

from ld4lg_fast.kernels.backend import INTERPRETED

LIBRARY = torch.library.Library("ld4lg", "DEF")
IMPLEMENTATIONS: dict[str, tuple[str, str]] = {}  # "ld4lg::op" -> its module and function in cpu/ and triton/


def register(schema: str, fake: Callable, module: str, function: str) -> None:
    """Defines an operation that ``cpu/<module>.py`` and ``triton/<module>.py`` implement under the same name.

    ``fake`` gives the outputs' shapes, dtypes and strides for tracing.
    """
    name = schema.split("(")[0]
    IMPLEMENTATIONS[f"ld4lg::{name}"] = module, function
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key, folder in (("CPU", "triton" if INTERPRETED else "cpu"), ("CUDA", "triton")):
        LIBRARY.impl(name, _on_first_call(f"ld4lg_fast.kernels.{folder}.{module}", function), key)
    torch.library.register_fake(f"ld4lg::{name}", fake, lib=LIBRARY)


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
