"""`Session`: an ONNX graph in onnxruntime; every failure is one sentence."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime as ort

from .errors import RuntimeInputError
from .option_checks import shown

MIN_ONNXRUNTIME = (1, 22)

Feeds = Mapping[str, "np.ndarray | ort.OrtValue"]
Signature = Mapping[
    str, tuple[str, tuple[int | None, ...]]
]  # by name: type and sizes, None where they may differ


def check_providers(providers: Sequence[str] | None) -> list[str]:
    """The execution providers to use, by default CUDA and CPU as far as available (TensorRT would build engines).

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
    if isinstance(providers, str) or not providers:
        raise RuntimeInputError(
            f"providers is {shown(providers)}; it must be a list of one or more of {', '.join(available)}."
        )
    for name in providers:
        if name not in available:
            raise RuntimeInputError(
                f"This onnxruntime has no provider {shown(name)}, only {', '.join(available)}; "
                "CUDAExecutionProvider comes with onnxruntime-gpu."
            )
    return list(providers)


class Session:
    """One graph. Inputs are arrays in host memory, or OrtValues on the device.

    Raises:
        RuntimeInputError: onnxruntime cannot load the file, or cannot start the provider.
    """

    def __init__(self, folder: Path, name: str, providers: Sequence[str], threads: int | None = None) -> None:
        self.path = folder / f"{name}.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        if threads is not None:
            options.intra_op_num_threads = threads
        with self._one_sentence("cannot load"):
            # Without the fallback of onnxruntime's Python part, which prints to standard output.
            self._session = ort.InferenceSession(
                self.path, options, providers=list(providers), enable_fallback=0
            )
        # onnxruntime falls back silently if an available provider cannot start.
        if self._session.get_providers()[0] != providers[0]:
            raise RuntimeInputError(
                f"The provider {providers[0]} could not be started (is its driver installed?); "
                "leave it out, or give providers=['CPUExecutionProvider']."
            )
        self.input_signature = _signature(self._session.get_inputs())
        self.output_signature = _signature(self._session.get_outputs())
        self.inputs, self.outputs = list(self.input_signature), list(self.output_signature)
        self.device = "cuda" if providers[0] == "CUDAExecutionProvider" else "cpu"

    def place(self, value: np.ndarray) -> ort.OrtValue:
        """The array on the device, so that it is not copied in every step."""
        with self._one_sentence("has no room for an input of"):
            return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(value), self.device)

    def empty_cache(self, like: ort.OrtValue, beams: int) -> ort.OrtValue:
        """An empty key or value cache (S, H, 0, beams, K) with the device and type of ``like`` (S, H, N, K)."""
        sentences, heads, _, width = like.shape()
        with self._one_sentence("has no room for the cache of"):
            return ort.OrtValue.ortvalue_from_shape_and_type(
                (sentences, heads, 0, beams, width), like.element_type(), self.device
            )

    def run(
        self,
        feeds: Feeds,
        host: Mapping[str, tuple[int | None, ...]] | None = None,
        into: Mapping[str, ort.OrtValue] | None = None,
    ) -> dict[str, ort.OrtValue]:
        """All outputs by name, on the device.

        Args:
            host: outputs in host memory, with their expected shapes (None: any size), as a graph does not declare the
                sizes of a batch.
            into: memory of outputs, which may be that of an input.

        Raises:
            RuntimeInputError: onnxruntime fails, for example without enough memory, or an output has another shape.
        """
        binding, host, into = self._session.io_binding(), host or {}, into or {}
        with self._one_sentence("cannot run"):
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
            outputs = dict(zip(self.outputs, binding.get_outputs(), strict=True))
        for name, wanted in host.items():
            shape = tuple(outputs[name].shape())
            if len(shape) != len(wanted) or any(
                size not in (None, own) for size, own in zip(wanted, shape, strict=True)
            ):
                raise RuntimeInputError(
                    f"{self.path} is damaged: its output {name} has shape {shape}, where {wanted} was to come; export "
                    "the run again."
                )
        return outputs

    @contextmanager
    def _one_sentence(self, what: str) -> Iterator[None]:
        """Raises onnxruntime's errors, which have no common base class and many lines, as one sentence."""
        try:
            yield
        except Exception as error:
            said = str(error).strip() or type(error).__name__
            raise RuntimeInputError(
                f"onnxruntime {ort.__version__} {what} {self.path}: {said.splitlines()[0]}"
            ) from error


def _signature(nodes: Sequence[ort.NodeArg]) -> Signature:
    return {
        node.name: (node.type, tuple(size if isinstance(size, int) else None for size in node.shape))
        for node in nodes
    }
