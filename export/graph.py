"""A module with example inputs, dynamic axes and names, to be exported as an ONNX graph."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Graph:
    """A module, example ``inputs`` for its ``forward`` (tensors or lists of them), and the names of its outputs.

    ``axes`` names the dynamic axes of each input; axes of the same name have the same size. Axes of different names
    have different sizes in the example, so that the exporter does not merge them.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor | list[Tensor]]
    axes: dict[str, dict[int, str]]
    outputs: list[str]

    def input_names(self) -> list[str]:
        """One name for each tensor. A cache has ``past.0.key``, ``past.0.value``, ``past.1.key``, …"""
        names = []
        for name, value in self.inputs.items():
            if name == "source":
                names += [f"source.{block}" for block in range(len(value))]
            else:
                names += cache_names(name, len(value) // 2) if isinstance(value, list) else [name]
        return names


def cache_names(prefix: str, num_layers: int) -> list[str]:
    """``past.0.key``, ``past.0.value``, ``past.1.key``, …"""
    return [f"{prefix}.{layer}.{kind}" for layer in range(num_layers) for kind in ("key", "value")]
