"""The command ``generate.py`` of an exported folder, and ``ld4lg run-onnx``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .decoding import STRATEGIES
from .errors import RuntimeInputError
from .pipeline import OnnxTextDiffusion
from .sampling import SAMPLERS
from .schedules import SPACINGS


def main(folder: Path, arguments: Sequence[str] | None = None) -> None:
    """Samples as the arguments say, prints the texts; exit code 2 and one sentence on bad input."""
    options = _parser(folder).parse_args(arguments)
    try:
        start = time.perf_counter()
        providers = [options.provider] if options.provider else None
        model = OnnxTextDiffusion(folder, providers, options.threads)
        texts = model(
            options.num_samples,
            class_id=options.class_id,
            class_name=options.class_name,
            source=options.source,
            quality=options.quality,
            steps=options.steps,
            sampler=options.sampler,
            spacing=options.spacing,
            guidance_scale=options.guidance_scale,
            seed=options.seed,
            batch_size=options.batch_size,
            strategy=options.strategy,
            num_decodes=options.num_decodes,
        )
        seconds = time.perf_counter() - start
        for text in texts:
            print(f"• {text}")
        print(f"{len(texts)} texts in {seconds:.1f} s, loading included.")
        if options.json is not None:
            settings = {key: value for key, value in vars(options).items() if key != "json"}
            _write_json(options.json, {"texts": texts, "settings": settings, "seconds": round(seconds, 3)})
    except (RuntimeInputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _parser(folder: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"Samples texts from the exported model in {folder}.")
    add = parser.add_argument
    add("--num-samples", type=int, default=8)
    add("--quality", default="paper", help="preset of the next three: paper, balanced or draft")
    add("--steps", type=int, help="network evaluations a text, if not the preset's")
    add("--sampler", choices=list(SAMPLERS), help="if not the preset's")
    add("--spacing", choices=SPACINGS, help="of the steps, if not the preset's")
    add("--strategy", choices=STRATEGIES, default="beam", help="how latents become text")
    add(
        "--num-decodes",
        type=int,
        default=1,
        help="texts drawn from each latent, of which the best is kept (nucleus)",
    )
    add("--seed", type=int, default=0, help="the same seed gives the same texts")
    add("--class-id", type=int, help="of a class-conditional model")
    add("--class-name", help="the same by name")
    add("--source", help="the text that a sequence-to-sequence model writes from")
    add("--guidance-scale", type=float, help="2 with a source and 1 without, if left out")
    add("--batch-size", type=int, default=64)
    add("--provider", help="of onnxruntime, e.g. CPUExecutionProvider")
    add("--threads", type=int, help="of the CPU")
    add("--json", type=Path, help="also write the texts to this file")
    return parser


def _write_json(path: Path, content: dict) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)
