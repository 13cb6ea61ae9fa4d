"""The command line of an exported folder: ``generate.py`` and ``ld4lg run-onnx``."""

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from .decoding import CHOICES, STRATEGIES
from .errors import RuntimeInputError
from .guide_options import parse_guides
from .option_checks import unknown_option
from .pipeline import OnnxTextDiffusion
from .renamed import current_words, given_twice, renamed_words
from .sampling import SAMPLERS
from .schedules import SPACINGS
from .text_display import displayed, json_text, list_item, print_json, terminal_output, typed
from .text_files import read_sources

BAD_INPUT, INTERRUPTED = 2, 130  # exit codes
MOST_SAID = 300  # characters of argparse's messages, which repeat whole arguments


def number(text: str) -> int | float | str:
    """A number, or the text itself, which `option_checks` refuses."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _path(text: str) -> Path:
    """A path; an empty one would be the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; name a file")
    return Path(text)


# Fields of `DecodingRules` as options; those left out are the model's own.
DECODING: dict[str, dict] = {
    "strategy": {"choices": STRATEGIES, "help": "how latents become text"},
    "num_beams": {"type": number, "help": "of beam search"},
    "top_p": {
        "type": number,
        "help": "of nucleus sampling: the cumulative probability of the tokens to sample from",
    },
    "top_k": {
        "type": number,
        "help": "the same: the number of most probable tokens to sample from, 0 for all",
    },
    "temperature": {"type": number, "help": "the same: above 1 texts differ more"},
    "num_decodes": {
        "type": number,
        "help": "the same: texts sampled from each latent, of which one is kept",
    },
    "choose_decode": {
        "choices": CHOICES,
        "help": "which one is kept: the most probable (score), or the most similar to the others",
    },
    "max_length": {"type": number, "help": "tokens of a text, special ones included"},
    "min_length": {"type": number, "help": "the same"},
}

EXAMPLES = """examples:
  %(prog)s --num-samples 8 --seed 1
  %(prog)s --quality draft --strategy nucleus --top-k 50
  %(prog)s --quality balanced --json -"""


def main(folder: Path, arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Samples texts and prints them; one sentence and exit code 2 on bad input.

    ``prog``: the command's name in messages; None: the script's name.
    """
    with terminal_output():
        words = sys.argv[1:] if arguments is None else arguments
        options = _parser(folder, prog).parse_args(current_words(words))
        try:
            if sentence := given_twice(words):
                raise RuntimeInputError(sentence)
            for sentence in renamed_words(words):
                print(displayed(sentence), file=sys.stderr)
            _sample(folder, options)
        except BrokenPipeError:
            raise
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except (RuntimeInputError, OSError, MemoryError) as error:
            said = (
                str(error) or "The memory does not suffice; ask for fewer samples, beams or decodes at once."
            )
            if isinstance(error, OSError) and error.filename:
                said = f"{error.filename}: {error.strerror}."
            print("error:", displayed(said), file=sys.stderr)
            raise SystemExit(BAD_INPUT) from None


def _sample(folder: Path, options: argparse.Namespace) -> None:
    start = time.perf_counter()
    alone = str(options.json) == "-"
    output = None if options.json is None or alone else _output_file(options.json)
    sources = options.source if options.source_file is None else _texts_in(options.source_file, "source")
    prompts = None if options.prompt is None else [options.prompt]
    if options.prompt_file is not None:
        prompts = _texts_in(options.prompt_file, "prompt")
    model = OnnxTextDiffusion(
        folder, None if options.provider is None else [options.provider], options.threads
    )
    guides, guide_scales = parse_guides(options.guide or ())
    decoding = {name: value for name in DECODING if (value := getattr(options, name)) is not None}
    texts = model(
        _count(sources, prompts) if options.num_samples is None else options.num_samples,
        prompt=prompts,
        max_new_tokens=options.max_new_tokens,
        class_id=options.class_id,
        class_name=options.class_name,
        source=sources[0] if sources and len(sources) == 1 else sources,
        quality=options.quality,
        num_inference_steps=options.num_inference_steps,
        sampler=options.sampler,
        spacing=options.spacing,
        eta=options.eta,
        guidance_scale=options.guidance_scale,
        guidance_interval=tuple(options.guidance_interval),
        guides=guides,
        guide_scales=guide_scales,
        seed=options.seed,
        batch_size=options.batch_size,
        on_texts=None if alone else _show,
        **decoding,
    )
    seconds = time.perf_counter() - start
    files = ("json", "source_file", "prompt_file")
    settings = {key: value for key, value in vars(options).items() if key not in files}
    settings |= {"source": sources, "prompt": prompts}
    content = {"texts": texts, "settings": settings, "seconds": round(seconds, 3)}
    if alone:
        print_json(content)
        return
    print(f"{len(texts)} texts in {seconds:.1f} s, loading included.")
    if output is not None:
        _write(output, json_text(content) + "\n")


def _show(texts: list[str]) -> None:
    print(*map(list_item, texts), sep="\n", flush=True)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence."""

    def error(self, message: str) -> NoReturn:
        said = displayed(message if len(message) <= MOST_SAID else f"{message[:MOST_SAID]}…")
        without = re.match(r"argument (--[\w-]+): expected (at least )?one argument$", said)
        if without:
            said += f" (one that begins with - is joined to it, as in {without[1]}=-x)"
        if unknown := re.match(r"unrecognized arguments: (--[^\s=]+)", said):
            known = [name for name in self._option_string_actions if name.startswith("--")]
            self.exit(BAD_INPUT, f"error: {unknown_option(unknown[1], known)}\n")
        self.exit(BAD_INPUT, f"error: {said}; --help lists the options.\n")


def _parser(folder: Path, prog: str | None) -> argparse.ArgumentParser:
    place = displayed(str(folder)).replace("%", "%%")
    parser = Parser(
        prog=prog and displayed(prog),
        description=f"%(prog)s samples texts from the exported model in {place}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--num-samples", type=number, help="8, or one for each source or prompt, if left out")
    add("--quality", default="paper", help="preset of the next three: paper, balanced or draft")
    add("--num-inference-steps", type=number, help="network evaluations a text, if not the preset's")
    add("--sampler", choices=list(SAMPLERS), help="if not the preset's")
    add("--spacing", choices=SPACINGS, help="of the steps, if not the preset's")
    add("--eta", type=number, help="of ddim: 0 is deterministic, 1 ancestral sampling")
    add("--seed", type=number, default=0, help="the same seed gives the same texts")
    add("--class-id", type=number, help="of a class-conditional model")
    add("--class-name", type=typed, help="the same by name")
    prompt = parser.add_mutually_exclusive_group()
    prompt.add_argument("--prompt", type=typed, help="text to go on with (models that write documents)")
    prompt.add_argument(
        "--prompt-file", type=_path, help="prompts in a .txt (one a line), .jsonl, .json, .csv or .tsv"
    )
    add("--max-new-tokens", type=number, help="most tokens to add to a prompt; 512 if left out")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--source",
        type=typed,
        nargs="+",
        action="extend",
        help="what a sequence-to-sequence model writes from: a text, or one for each sample",
    )
    source.add_argument(
        "--source-file", type=_path, help="the same in a .txt (one a line), .jsonl, .json, .csv or .tsv"
    )
    add(
        "--guide",
        type=typed,
        action="append",
        metavar="NAME=VALUE[:WEIGHT]",
        help="what texts should be like, as food=Italian or length=20:5; may be given several times",
    )
    add("--guidance-scale", type=number, help="2 with a source and 1 without, if left out")
    add(
        "--guidance-interval",
        nargs=2,
        type=number,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="times, 1 noise and 0 data, between which there is guidance",
    )
    for name, settings in DECODING.items():
        add(f"--{name.replace('_', '-')}", **settings)
    add("--batch-size", type=number, default=64)
    add("--provider", help="of onnxruntime, e.g. CPUExecutionProvider")
    add("--threads", type=number, help="of the CPU")
    add("--json", type=_path, help="also write the texts to this file; - prints JSON and nothing else")
    return parser


def _texts_in(path: Path, kind: str) -> list[str]:
    texts, account = read_sources(path, kind)
    if account:
        print(displayed(f"{kind.capitalize()}s are read from {account}"), file=sys.stderr)
    return texts


def _count(sources: Sequence[str] | None, prompts: Sequence[str] | None) -> int:
    """How many samples there are if their number is left out."""
    several = sources or (prompts if prompts and len(prompts) > 1 else None)
    return len(several) if several else 8


def _output_file(path: Path) -> Path:
    """The output file after a check that it can be written; links are resolved.

    Raises:
        RuntimeInputError: a directory, a device, or a file that cannot be written.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise RuntimeInputError(f"--json {path} is not a regular file; name another one.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise RuntimeInputError(
            f"--json {path} cannot be written ({error.strerror}); name another file."
        ) from error
    return path


def _write(path: Path, content: str) -> None:
    """Writes a file atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
