"""ONNX export of a trained run, and a runtime that needs no PyTorch.

`exporter.export_run` writes the folder; `runtime` samples from it with onnxruntime, tokenizers and numpy alone.
"""

from importlib.util import find_spec

from ld4lg_fast.errors import ConfigError


def require_packages(*names: str) -> None:
    """Refuses to go on without optional packages.

    Raises:
        ConfigError: one of them is not installed.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX needs the package {missing[0]}, which is not installed: pip install 'ld4lg-fast[onnx]'."
        )
