"""What cannot be computed here is left out with a sentence, never replaced by a guess."""

from importlib import import_module
from types import ModuleType


class Unavailable(Exception):
    """A metric cannot be computed here; the message says in one sentence why, and what to do."""


class ModelUnavailable(Unavailable):
    """A model cannot be had; the message ends with what to give instead, and `of_option` says how."""

    def of_option(self, name: str) -> str:
        """The message with the option that names the model."""
        return f"{self}, with {name}=..."


def require(module: str, package: str) -> ModuleType:
    """Imports an optional module.

    Raises:
        Unavailable: it is not installed; ``package`` is what to install.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise Unavailable(
            f"the package {package} is not installed: pip install 'ld4lg-fast[eval]'"
        ) from error
