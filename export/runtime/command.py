"""The command ``generate.py`` of an exported folder, and ``ld4lg run-onnx``."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from .decoding import CHOICES, STRATEGIES
from .errors import RuntimeInputError
from .pipeline import OnnxTextDiffusion
from .sampling import SAMPLERS
from .schedules import SPACINGS

# Fields of `DecodingRules` as options; those left out are the model's own.
DECODING: dict[str, dict] = {
    "strategy": {"choices": STRATEGIES, "help": "how latents become text"},
    "num_beams": {"type": int, "help": "of beam search"},
    "top_p": {"type": float, "help": "of nucleus sampling: the share of the probability that is drawn from"},
    "top_k": {"type": int, "help": "the same: the most probable tokens that are drawn from, 0 for all"},
    "temperature": {"type": float, "help": "the same: above 1 texts differ more"},
    "num_decodes": {"type": int, "help": "the same: texts drawn from each latent, of which one is kept"},
    "choose_decode": {
        "choices": CHOICES,
        "help": "the one that is kept: the most probable (score), or the one most like the others",
    },
    "max_length": {"type": int, "help": "tokens of a text, special ones included"},
    "min_length": {"type": int, "help": "the same"},
}

EXAMPLES = """examples:
  %(prog)s --num-samples 8 --seed 1
  %(prog)s --quality draft --strategy nucleus --top-k 50
  %(prog)s --quality balanced --json -"""


def main(folder: Path, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Samples as the arguments say, prints the texts; exit code 2 and one sentence on bad input.

    ``prog`` is how the command is typed; None: as its script is called.
    """
    options = _parser(folder, prog).parse_args(arguments)
    try:
        start = time.perf_counter()
        providers = [options.provider] if options.provider else None
        model = OnnxTextDiffusion(folder, providers, options.threads)
        sources = _read_lines(options.source_file) if options.source_file else options.source
        decoding = {name: value for name in DECODING if (value := getattr(options, name)) is not None}
        texts = model(
            (len(sources) if sources else 8) if options.num_samples is None else options.num_samples,
            class_id=options.class_id,
            class_name=options.class_name,
            source=sources[0] if sources and len(sources) == 1 else sources,
            quality=options.quality,
            steps=options.steps,
            sampler=options.sampler,
            spacing=options.spacing,
            guidance_scale=options.guidance_scale,
            guidance_interval=tuple(options.guidance_interval),
            seed=options.seed,
            batch_size=options.batch_size,
            **decoding,
        )
        seconds = time.perf_counter() - start
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "source_file")}
        settings["source"] = sources
        content = json.dumps(
            {"texts": texts, "settings": settings, "seconds": round(seconds, 3)}, indent=2, ensure_ascii=False
        )
        if str(options.json) == "-":
            print(content)
            return
        for text in texts:
            print(f"• {text}")
        print(f"{len(texts)} texts in {seconds:.1f} s, loading included.")
        if options.json is not None:
            _write(options.json, content + "\n")
    except (RuntimeInputError, OSError) as error:
        of_file = isinstance(error, OSError) and error.filename
        print("error:", f"{error.filename}: {error.strerror}." if of_file else error, file=sys.stderr)
        raise SystemExit(2) from None


def _parser(folder: Path, prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Samples texts from the exported model in {folder}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--num-samples", type=int, help="8, or one for each source, if left out")
    add("--quality", default="paper", help="preset of the next three: paper, balanced or draft")
    add("--steps", type=int, help="network evaluations a text, if not the preset's")
    add("--sampler", choices=list(SAMPLERS), help="if not the preset's")
    add("--spacing", choices=SPACINGS, help="of the steps, if not the preset's")
    add("--seed", type=int, default=0, help="the same seed gives the same texts")
    add("--class-id", type=int, help="of a class-conditional model")
    add("--class-name", help="the same by name")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        nargs="+",
        help="what a sequence-to-sequence model writes from: a text, or one for each sample",
    )
    source.add_argument("--source-file", type=Path, help="the same, one a line")
    add("--guidance-scale", type=float, help="2 with a source and 1 without, if left out")
    add(
        "--guidance-interval",
        nargs=2,
        type=float,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="times, 1 noise and 0 data, between which there is guidance",
    )
    for name, settings in DECODING.items():
        add(f"--{name.replace('_', '-')}", **settings)
    add("--batch-size", type=int, default=64)
    add("--provider", help="of onnxruntime, e.g. CPUExecutionProvider")
    add("--threads", type=int, help="of the CPU")
    add("--json", type=Path, help="also write the texts to this file; - prints JSON and nothing else")
    return parser


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise RuntimeInputError(f"{path} is not UTF-8 text ({error.reason}); convert it.") from error


def _write(path: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)
