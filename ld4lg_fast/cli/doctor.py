"""What is installed here, what works and why not, and what the device can do."""

import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from importlib.util import find_spec

import torch

from ld4lg_fast._version import __version__
from ld4lg_fast.engine.precision import PRECISIONS, choose_linear
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend
from ld4lg_fast.models.attention_backends import PACKAGES, unusable_reason
from ld4lg_fast.terminal.versions import installed_versions
from ld4lg_fast.training.train_section import auto_precision

REQUIRED = ("transformers", "accelerate", "tokenizers", "datasets", "safetensors", "hydra-core")
OPTIONAL = {
    "triton": "gpu",
    "liger-kernel": "liger",
    "onnx": "onnx",
    "onnxscript": "onnx",
    "onnxruntime": "onnx",
    "onnxruntime-gpu": "onnx-gpu",
    "mauve-text": "eval",
    "scikit-learn": "eval",
    "spacy": "eval",
    "rouge-score": "eval",
    "gguf": "gguf",
    "peft": "lora",
    "fastapi": "serve",
    "uvicorn": "serve",
    "prometheus-client": "serve",
    "wandb": "wandb",
    "tensorboard": "tensorboard",
    "ray": "ray",
    "flash-attn": "flash-attn",
    "flash-attn-4": "flash-attn-4",
}
"""Packages that some commands need, and an extra of ld4lg-fast that installs each."""
ALTERNATIVES = ({"onnxruntime", "onnxruntime-gpu"}, {"flash-attn", "flash-attn-4"})
"""Packages of which one suffices."""


def examine() -> dict:
    """Everything that `report` prints, as JSON: ``versions``, ``missing`` packages with the command that installs
    them, ``devices``, ``kernels``, ``attention`` packages, ``precisions`` by device, ``compile``, which give the reason
    why something does not work, or null, and ``mixed_precision`` of training: what ``auto`` is and why."""
    versions = installed_versions(dict.fromkeys((*REQUIRED, *OPTIONAL, *(p.distribution for p in PACKAGES))))
    present = set(versions).union(*(names for names in ALTERNATIVES if names & versions.keys()))
    devices = {"cpu": _cpu()} | {
        f"cuda:{index}": _gpu(index)
        for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    }
    return {
        "versions": {
            "ld4lg-fast": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **versions,
        },
        "missing": {
            name: f"pip install 'ld4lg-fast[{extra}]'"
            for name, extra in OPTIONAL.items()
            if name not in present
        },
        "devices": devices,
        "kernels": {name: backend.unavailable_reason(name) for name in backend.BACKENDS},
        "precisions": {
            device: {name: _precision_trouble(name, device) for name in PRECISIONS} for device in devices
        },
        "attention": {
            device: {
                package.distribution: unusable_reason(package, torch.device(device)) for package in PACKAGES
            }
            for device in devices
            if device != "cpu" or len(devices) == 1
        },
        "mixed_precision": dict(zip(("auto", "reason"), auto_precision(), strict=True)),
        "compile": _compile_trouble(),
    }


def report(found: Mapping | None = None) -> Iterator[str]:
    """What `examine` found, one line each, for a person."""
    found = examine() if found is None else found
    versions = dict(found["versions"])
    first = ("ld4lg-fast", "python", "torch")
    yield ", ".join(f"{name} {versions.pop(name)}" for name in first)
    yield from (f"{name} {version}" for name, version in versions.items())
    yield from (f"{name} not installed: {remedy}" for name, remedy in found["missing"].items())
    for device, facts in found["devices"].items():
        yield f"{device}: {facts}"
    if len(found["devices"]) == 1:
        yield "GPU: none that torch can use"
    for name, reason in found["kernels"].items():
        yield f"kernels, {name}: {reason or 'works'}"
    for device, packages in found["attention"].items():
        for name, reason in packages.items():
            yield f"attention, {name} on {device}: {reason or 'works'}"
    for device, precisions in found["precisions"].items():
        for name, reason in precisions.items():
            yield f"precision {name} on {device}: {reason or 'works'}"
    training = found["mixed_precision"]
    yield f"training, train.mixed_precision=auto: {training['auto']}, as {training['reason']}"
    yield f"torch.compile: {found['compile'] or 'works'}"


def _cpu() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    variant = backend.native.instruction_set() if backend.has_native() else "none"
    return (
        f"{platform.machine()}, {torch.get_num_threads()} threads, {memory:.0f} GiB of memory, torch's kernels "
        f"{torch.backends.cpu.get_cpu_capability()}, ours {variant}"
    )


def _gpu(index: int) -> str:
    facts = torch.cuda.get_device_properties(index)
    return (
        f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB of memory, compute capability "
        f"{facts.major}.{facts.minor}, {facts.multi_processor_count} multiprocessors"
    )


def _precision_trouble(name: str, device: str) -> str | None:
    try:
        choose_linear(name, torch.float32, torch.device(device))
    except ConfigError as error:
        return str(error).partition(": ")[2].rstrip(".")
    return None


def _compile_trouble() -> str | None:
    """Why ``torch.compile`` has nothing to compile with on the device that is used by default."""
    if torch.cuda.is_available():
        return None if find_spec("triton") else "the package triton is not installed"
    compiler = os.environ.get("CXX") or "g++"
    return None if shutil.which(compiler) else f"it needs the C++ compiler {compiler}, which is not installed"
