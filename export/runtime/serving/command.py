"""The command line of an exported folder's ``serve.py``."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..command import Parser, number
from ..errors import RuntimeInputError
from ..pipeline import OnnxTextDiffusion
from ..text_display import displayed, terminal_output
from .flags import HELP, check_flags, read_key
from .limits import Limits
from .onnx_backend import OnnxBackend
from .server import serve

BAD_INPUT = 2  # exit code


def main(folder: Path, arguments: Sequence[str] | None = None) -> None:
    """Serves the folder until a signal ends it; one sentence and exit code 2 on bad input."""
    with terminal_output():
        options = vars(_parser(folder).parse_args(sys.argv[1:] if arguments is None else arguments))
        try:
            bounds = {name: options[name] for name in asdict(Limits())}
            check_flags({"port": options["port"], **bounds})
            key, limits = read_key(options["api_key_env"], os.environ), Limits(**bounds)
            name = folder.resolve().name

            def load() -> OnnxBackend:
                return OnnxBackend(OnnxTextDiffusion(folder, threads=options["threads"]), name, limits)

            serve(load, host=options["host"], port=options["port"], limits=limits, api_key=key)
        except RuntimeInputError as error:
            print("error:", displayed(str(error)), file=sys.stderr)
            raise SystemExit(BAD_INPUT) from None


def _parser(folder: Path) -> argparse.ArgumentParser:
    place = displayed(str(folder)).replace("%", "%%")
    parser = Parser(
        description=f"%(prog)s serves the exported model in {place} over HTTP, with a page at its address."
    )
    defaults = {"host": "127.0.0.1", "port": 8000, "api_key_env": None, **asdict(Limits())}
    for name, default in defaults.items():
        kind = number if isinstance(default, int | float) else str
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help=HELP[name])
    parser.add_argument("--threads", type=number, help="of the CPU")
    return parser
