"""Every operation in plain PyTorch, from the ``reference.py`` of its folder.

Fallback, test oracle and benchmark baseline. Arguments: see the function of the same name in `ops`.
"""

from collections.abc import Callable
from importlib import import_module


def __getattr__(name: str) -> Callable:
    try:
        return getattr(import_module(f"ld4lg_fast.kernels.{name}.reference"), name)
    except ModuleNotFoundError:
        raise AttributeError(f"no operation {name!r} has a reference") from None
