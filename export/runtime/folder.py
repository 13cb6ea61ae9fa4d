"""An exported folder: its config, its completeness, its sessions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import RuntimeInputError

CONFIG = "config.json"
FORMAT = 2
MIN_ONNXRUNTIME = (1, 22)

Feeds = Mapping[str, "np.ndarray | ort.OrtValue"]


def read_config(folder: Path) -> dict:
    """The folder's config, after a check that all its files are there and whole.

    Raises:
        RuntimeInputError: a missing, foreign or truncated folder.
    """
    if not folder.is_dir():
        raise RuntimeInputError(f"The folder {folder} does not exist; write one with ld4lg export.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        form, files = config["format"], dict(config["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RuntimeInputError(
            f"{folder} is no folder that ld4lg export wrote, or is damaged: its {CONFIG} cannot be read "
            f"({type(error).__name__})."
        ) from error
    if form != FORMAT:
        raise RuntimeInputError(f"{folder} has the format {form!r}; this runtime reads format {FORMAT}.")
    for name, size in files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise RuntimeInputError(f"{folder} is incomplete: {name} {state}; copy or export it again.")
    return config


def check_providers(providers: Sequence[str] | None) -> list[str]:
    """The execution providers to use, by default those of this onnxruntime that need no building of engines.

    Raises:
        RuntimeInputError: onnxruntime is too old, or has no such provider.
    """
    version = tuple(int(part) for part in ort.__version__.split(".")[:2])
    if version < MIN_ONNXRUNTIME:
        needed = ".".join(map(str, MIN_ONNXRUNTIME))
        raise RuntimeInputError(
            f"onnxruntime {ort.__version__} is too old; install {needed} or newer (pip install -U onnxruntime)."
        )
    available = ort.get_available_providers()
    if providers is None:
        return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    for name in providers:
        if name not in available:
            raise RuntimeInputError(
                f"This onnxruntime has no provider {name!r}, only {', '.join(available)}; "
                "CUDAExecutionProvider comes with onnxruntime-gpu."
            )
    return list(providers)


class Session:
    """One graph. Inputs may lie in memory (arrays) or where an earlier run left them (OrtValues)."""

    def __init__(self, folder: Path, name: str, providers: Sequence[str], threads: int | None = None) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(folder / f"{name}.onnx", options, providers=list(providers))
        except Exception as error:  # onnxruntime has no common base for what it raises
            raise RuntimeInputError(
                f"onnxruntime {ort.__version__} cannot load {folder / name}.onnx: {_first_line(error)}"
            ) from error
        # onnxruntime falls back silently where a provider is there but cannot start.
        if self._session.get_providers()[0] != providers[0]:
            raise RuntimeInputError(
                f"The provider {providers[0]} could not be started (is its driver installed?); "
                "leave it out, or give providers=['CPUExecutionProvider']."
            )
        self.inputs = [node.name for node in self._session.get_inputs()]
        self.outputs = [node.name for node in self._session.get_outputs()]
        self.device = "cuda" if providers[0] == "CUDAExecutionProvider" else "cpu"

    def place(self, value: np.ndarray) -> ort.OrtValue:
        """The array where the graph runs, so that it is copied once and not in every step."""
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self.device)

    def empty_cache(self, like: ort.OrtValue, beams: int) -> ort.OrtValue:
        """A key or value cache (S, H, 0, beams, K) where ``like`` (S, H, N, K) lies, of its type."""
        sentences, heads, _, width = like.shape()
        return ort.OrtValue.ortvalue_from_shape_and_type(
            (sentences, heads, 0, beams, width), like.element_type(), self.device
        )

    def run(
        self, feeds: Feeds, host: Sequence[str] = (), into: Mapping[str, ort.OrtValue] | None = None
    ) -> dict[str, ort.OrtValue]:
        """All outputs, by name: those in ``host`` in memory, the others where the graph runs; those of ``into`` in
        the given memory, which may be that of an input."""
        binding, into = self._session.io_binding(), into or {}
        for name, value in feeds.items():
            if isinstance(value, ort.OrtValue):
                binding.bind_ortvalue_input(name, value)
            else:
                binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for name in self.outputs:
            if name in into:
                binding.bind_ortvalue_output(name, into[name])
            else:
                binding.bind_output(name, "cpu" if name in host else self.device)
        self._session.run_with_iobinding(binding)
        return dict(zip(self.outputs, binding.get_outputs(), strict=True))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
