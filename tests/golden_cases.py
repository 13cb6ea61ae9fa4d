"""Golden cases: reads a folder of them and compares an implementation's outputs with them.

The format is that of ``tests/golden/README.md``. An implementation is a module with
a function of the name of each kind, from a case to its outputs.
"""

import importlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

# For ``benchmarks``; last, so that an installed ld4lg_fast is never hidden by the source tree.
sys.path.append(str(Path(__file__).resolve().parents[1]))

IMPLEMENTATIONS = ("reference", "ld4lg_fast")
KINDS = ("official_", "unofficial_")  # how the names of all kinds begin
Adapter = Callable[["Case"], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """One manifest entry; tensors are read on access, as copies."""

    folder: Path
    entry: Mapping[str, Any]

    @property
    def id(self) -> str:
        return self.entry["id"]

    @property
    def kind(self) -> str:
        return self.entry["kind"]

    @property
    def constructor(self) -> dict[str, Any]:
        return dict(self.entry.get("constructor") or {})

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.entry.get("settings") or {})

    @property
    def call_args(self) -> dict[str, Any]:
        return dict(self.entry.get("call_args") or {})

    @property
    def inputs(self) -> dict[str, Tensor]:
        return self._tensors("inputs")

    @property
    def wanted(self) -> dict[str, Tensor]:
        return self._tensors("outputs")

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's parameters in float32, under published names."""
        stored = _load(self.folder / self.entry["weights_file"])
        prefix = "weights/"
        return {key.removeprefix(prefix): t.float() for key, t in stored.items() if key.startswith(prefix)}

    def tolerance(self, output: str) -> Mapping[str, Any]:
        return self.entry["tolerance"][output]

    def _tensors(self, part: str) -> dict[str, Tensor]:
        stored = _load(self.folder / self.entry["file"])
        return {name: stored[key].clone() for name, key in self.entry[part].items()}


@cache
def _load(path: Path) -> dict[str, Tensor]:
    return load_file(path)


def load_cases(folder: Path | str) -> list[Case]:
    """All cases of a folder, in the manifest's order."""
    folder = Path(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    return [Case(folder, entry) for entry in manifest["cases"]]


def share_of_tolerance(got: Tensor | None, want: Tensor, tolerance: Mapping[str, Any]) -> float:
    """The share of its tolerance that an output's largest error uses: at most 1 is correct.

    It is infinite for a missing output, a wrong shape and values that are not finite.

    Integers and masks must be equal. ``loose`` outputs sit where float32 has no digits left: they must be
    finite.
    """
    if got is None or got.shape != want.shape:
        return float("inf")
    if tolerance.get("exact"):
        same = not got.is_floating_point() and bool((got.long() == want.long()).all())
        return 0.0 if same else float("inf")
    if not got.isfinite().all():
        return float("inf")
    if tolerance.get("loose"):
        return 0.0
    got, want = got.detach().double(), want.double()
    error = (got - want).abs()
    allowed = tolerance["atol"] + tolerance["rtol"] * want.abs()
    share = torch.where(error == 0, 0.0, error / allowed)
    return float(share.max()) if share.numel() else 0.0


@dataclass(frozen=True)
class Verdict:
    """``share``: the worst output's share of its tolerance; ``reason``: the name of that output, or the error."""

    share: float
    reason: str

    @property
    def good(self) -> bool:
        return self.share <= 1.0  # NaN is not


def compare(case: Case, got: Mapping[str, Tensor]) -> Verdict:
    """Compares all outputs that the manifest lists with the case's."""
    want = case.wanted
    if not want:
        return Verdict(float("inf"), "the case lists no outputs")
    shares = {name: share_of_tolerance(got.get(name), want[name], case.tolerance(name)) for name in want}
    worst = max(shares, key=shares.__getitem__)
    reason, output = worst, got.get(worst)
    if output is None:
        reason = f"{worst} is missing"
    elif output.shape != want[worst].shape:
        reason = f"{worst} has the shape {tuple(output.shape)}, not {tuple(want[worst].shape)}"
    return Verdict(shares[worst], reason)


def given(**outputs: Tensor | None) -> dict[str, Tensor]:
    """The outputs that are not None."""
    return {name: tensor for name, tensor in outputs.items() if tensor is not None}


class Steps:
    """A sampler callback that records every step."""

    def __init__(self) -> None:
        self.z: list[Tensor] = []
        self.x_start: list[Tensor] = []

    def __call__(self, step: int, z: Tensor, x_start: Tensor) -> None:
        self.z.append(z)
        self.x_start.append(x_start)

    def outputs(self) -> dict[str, Tensor]:
        return {"z_steps": torch.stack(self.z), "x_start_steps": torch.stack(self.x_start)}


def adapters(implementation: str) -> Mapping[str, Adapter]:
    """The functions of an implementation by kind, which is their name; imported on demand."""
    module = importlib.import_module(
        {"reference": "golden_reference", "ld4lg_fast": "golden_library"}[implementation]
    )
    return {name: adapter for name, adapter in vars(module).items() if name.startswith(KINDS)}


def replay(case: Case, implementation: str) -> Verdict:
    """Runs one case through one implementation; an exception becomes a failed verdict."""
    adapter = adapters(implementation).get(case.kind)
    if adapter is None:
        return Verdict(float("inf"), f"unknown kind {case.kind!r}")
    try:
        return compare(case, adapter(case))
    except Exception as error:  # a replay goes on with the other cases and reports this one
        return Verdict(float("inf"), f"{type(error).__name__}: {' '.join(str(error).split())}")
