"""The benchmarks that ``ld4lg bench all`` runs, cut into pieces that take less than nine minutes each."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness import has_bf16

LIMIT_MINUTES = 9.0
NOT_RUN = {
    "batch-invariance": "deterministic mode needs a CPU",
    "gpu-tests": "it needs a GPU",
    "graph-replays": "it needs a GPU",
    "launch-gaps": "it runs with --profile",
    "recipe-ablation": "it trains models for hours; run benchmarks/recipe_ablation.py by itself",
    "class-accuracy": "it needs a class-conditional run and its evaluation; run benchmarks/class_accuracy.py by itself",
    "length-control": "it needs a scoring LM, which recipe_ablation.py trains",
    "guides": "it needs a scoring LM, which recipe_ablation.py trains, and E2E",
    "continuations": "it trains models for an hour; run benchmarks/continuations.py by itself",
    "decoder-tolerance": "it trains models for an hour; run benchmarks/decoder_tolerance.py by itself",
    "frozen-lm": "it trains models for hours; run benchmarks/frozen_lm.py by itself",
    "serving-load": "it loads a server for minutes; run benchmarks/serving_load.py by itself",
    "latents-dtype": "it needs E2E; run benchmarks/latents_dtype.py by itself",
    "scaling": "it writes corpora of gigabytes; run benchmarks/scaling.py by itself",
    "time-to-quality": "it trains models for most of an hour; run benchmarks/time_to_quality.py by itself",
}
"""Benchmarks that are no pieces, or not always, and why."""


@dataclass(frozen=True)
class Piece:
    """One command: ``command`` is a file of ``benchmarks/`` and its arguments, to which ``--json FILE`` is added.

    ``minutes`` is how long it takes at most by experience, or a guess; ``needs`` are the packages that it imports
    beside torch, transformers and accelerate.
    """

    name: str
    title: str
    command: tuple[str, ...]
    minutes: float
    needs: tuple[str, ...] = ()


def pieces(device: str, quick: bool, profile: bool) -> list[Piece]:
    """What runs on a device, in this order: first what proves that all else measures the right thing."""
    found = _quick(device) if quick else _whole(device)
    if device == "cuda":
        replays = () if not quick else ("--configs", "small", "--num-inference-steps", "3", "7")
        found = [
            Piece("gpu-tests", "Tests on the GPU", ("gpu_tests.py",), 8, ("pytest",)),
            Piece("graph-replays", "Replayed and eager steps", ("graph_replays.py", *replays), 4),
            *found,
        ]
    if profile:
        sizes = ("--config", "small", "--num-inference-steps", "3") if quick else ()
        options = ("--device", device, *sizes)
        found.append(Piece("launch-gaps", "Time between launches", ("launch_gaps.py", *options), 2))
    return found


def _quick(device: str) -> list[Piece]:
    on = ("--device", device)
    sample = ("sample_throughput.py", *on, "--config", "small", "--num-inference-steps", "4", "--rounds", "2")
    train = ("train_throughput.py", *on, "--config", "small", "--batch-size", "4", "--rounds", "2")
    decode = ("decode_throughput.py", *on, "--config", "small", "--batch-sizes", "2", "--rounds", "2")
    return [
        Piece("drift", "Cost of a precision", ("precision_drift.py", *on, "--num-samples", "16"), 0.5),
        Piece("ops", "Fused operations", ("ops.py", *on, "--op", "geglu", "--batch-sizes", "1"), 0.5),
        Piece("sample", "Sampling", (*sample, "--batch-sizes", "2", "--without-compile"), 0.5),
        Piece(
            "decode", "Text decoding", (*decode, "--max-length", "12", "--strategies", "greedy", "beam"), 0.5
        ),
        Piece("train", "Training", (*train, "--without-compile"), 0.5),
        Piece(
            "decode-memory", "Memory of sampling", ("decode_memory.py", *on, "--config", "small-causal"), 1
        ),
    ]


def _whole(device: str) -> list[Piece]:
    on, gpu = ("--device", device), device == "cuda"
    found = [Piece("drift", "Cost of a precision", ("precision_drift.py", *on), 3)]
    if not gpu:
        found.append(Piece("batch-invariance", "Samples in other batches", ("batch_invariance.py",), 4))
    for precision in ["bf16"] if gpu else ["fp32", *["bf16"] * has_bf16(device)]:
        for batch in ("8", "256" if gpu else "64"):
            command = ("ops.py", *on, "--batch-sizes", batch, "--precisions", precision)
            title = f"Fused operations, {precision}, batch {batch}"
            found.append(Piece(f"ops-{precision}-{batch}", title, command, 8))
    sample = ("sample_throughput.py", *on)
    for batch in ("1", "256" if gpu else "8"):
        command = (*sample, "--batch-sizes", batch, "--rounds", "5")
        found.append(Piece(f"sample-v2-{batch}", f"Sampling, paper v2, batch {batch}", command, 8))
    batch = "256" if gpu else "8"
    v1 = (*sample, "--config", "paper-v1", "--batch-sizes", batch, "--rounds", "3", "--without-compile")
    guided = (*sample, "--guidance", "2", "--batch-sizes", batch, "--rounds", "3", "--without-compile")
    found += [
        Piece(f"sample-v1-{batch}", f"Sampling, paper v1, batch {batch}", v1, 8),
        Piece(f"sample-guided-{batch}", f"Sampling under guidance, batch {batch}", guided, 8),
    ]
    if gpu:
        thousand = ("--num-inference-steps", "250", "--batch-sizes", "1000", "--rounds", "1")
        only = ("--precisions", "bf16", "--only", "engine, bf16, compiled")
        title = "A thousand sentences, 250 steps"
        found.append(Piece("sample-thousand", title, (*sample, *thousand, *only), 8))
    for batch in ("1", "128" if gpu else "8"):
        command = ("decode_throughput.py", *on, "--batch-sizes", batch, "--rounds", "3")
        found.append(Piece(f"decode-{batch}", f"Text decoding, batch {batch}", command, 8))
    found.append(Piece("decode-memory", "Memory of sampling", ("decode_memory.py", *on), 4))
    requests = ("request_throughput.py", *on, "--rounds", "3")
    found.append(Piece("requests", "Requests that share batches", requests, 3))
    for stage in ("autoencoder", "diffusion"):
        command = ("train_throughput.py", *on, "--stage", stage, "--rounds", "3")
        found.append(Piece(f"train-{stage}", f"Training, {stage}", command, 8))
    found.append(
        Piece("loss-parity", "Losses of both training loops", ("loss_parity.py", "--steps", "50"), 4)
    )
    packages = ("onnx", "onnxscript", "onnxruntime")
    found.append(Piece("onnx", "The exported folder", ("onnx_throughput.py", "--rounds", "3"), 5, packages))
    if not gpu:
        found.append(Piece("whole-job", "From noise to text", ("whole_job.py", "--quick"), 8, ("hydra",)))
    return found


def left_out(suites: Sequence[str], chosen: Sequence[Piece]) -> dict[str, str]:
    """Every benchmark of the repository that none of the pieces runs, with the reason."""
    run = {suite_name(piece.command[0]) for piece in chosen}
    return {name: NOT_RUN.get(name, "not in --quick") for name in suites if name not in run and name != "all"}


def suite_name(file: str) -> str:
    """The name of ``ld4lg bench NAME`` for a file of ``benchmarks/``."""
    return file.removesuffix(".py").removesuffix("_throughput").replace("_", "-")
