"""``ld4lg serve``."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ld4lg_fast.cli.app import app, path
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import Number, Rule, WholeNumber, complaint

if TYPE_CHECKING:
    from ld4lg_fast.export.runtime.serving.backend import Backend

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
RULES: dict[str, Rule] = {
    "--port": WholeNumber(0, 65535),
    "--max-samples": WholeNumber(1, 10_000),
    "--max-steps": WholeNumber(1, 100_000),
    "--max-running": WholeNumber(1, 100_000),
    "--max-waiting": WholeNumber(0, 1_000_000),
    "--max-body": WholeNumber(1, 2**30),
    "--max-seconds": Number(0, 86_400, above=True),
}


@app.command()
def serve(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            parser=path,
            help="Run directory of a finished training, or an exported folder; without it the model that ships.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one and prints it.")] = 8000,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the denoiser's matmuls: bf16, int8 on a CPU, …")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the key that clients must send.")
    ] = None,
    max_samples: Annotated[int, typer.Option(help="Most texts of a request.")] = 32,
    max_steps: Annotated[int, typer.Option(help="Most sampling steps of a text.")] = 1000,
    max_running: Annotated[int, typer.Option(help="Most texts that are denoised at the same time.")] = 64,
    max_waiting: Annotated[
        int, typer.Option(help="Most requests that wait; others are told to come again later.")
    ] = 256,
    max_body: Annotated[int, typer.Option(help="Most bytes of a request's body.")] = 2**20,
    max_seconds: Annotated[float, typer.Option(help="Most seconds from a request to its last text.")] = 120.0,
) -> None:
    """Serves a model over HTTP as OpenAI's API does, with a page to play with at its address.

    \b
    ld4lg serve
    ld4lg serve outputs/e2e --port 8080
    ld4lg serve exported
    API_KEY=secret ld4lg serve outputs/e2e --host 0.0.0.0 --api-key-env API_KEY

    SIGTERM and Ctrl-C end it with exit code 0 when accepted requests are answered; a second one ends it at once.
    """
    limits = {
        "max_samples": max_samples,
        "max_steps": max_steps,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "max_body": max_body,
        "max_seconds": max_seconds,
    }
    given = {"--port": port, **{f"--{name.replace('_', '-')}": value for name, value in limits.items()}}
    for name, value in given.items():
        if sentence := complaint(name, value, RULES[name]):
            raise ConfigError(sentence)
    key = None if api_key_env is None else _key(api_key_env)
    for package in PACKAGES:
        if find_spec(package) is None:
            raise ConfigError(
                f"ld4lg serve needs the package {package.replace('_', '-')}, which is not installed: pip install "
                "'ld4lg-fast[serve]'."
            )
    from ld4lg_fast.export.runtime.errors import RuntimeInputError
    from ld4lg_fast.export.runtime.serving.limits import Limits
    from ld4lg_fast.export.runtime.serving.server import serve as run

    bounds = Limits(**limits)

    def load() -> "Backend":
        return _pipeline(run_dir, bounds, precision)

    try:
        run(load, host=host, port=port, limits=bounds, api_key=key)
    except RuntimeInputError as error:
        raise ConfigError(str(error)) from error


def _key(variable: str) -> str:
    """The key in an environment variable.

    Raises:
        ConfigError: there is none, or one that no header can carry.
    """
    key = os.environ.get(variable, "")
    if not key.isascii() or not key.isprintable() or not key.strip() or " " in key:
        raise ConfigError(
            f"--api-key-env is {variable}, but this environment variable has no key of ASCII characters without "
            "spaces; set it, or name another one."
        )
    return key


def _pipeline(run_dir: Path | None, limits: "Limits", precision: str | None) -> "Backend":
    from ld4lg_fast.checkpoints.shipped import DEFAULT, run_directory
    from ld4lg_fast.options.checks import choose_device
    from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
    from ld4lg_fast.serving.pipeline_backend import PipelineBackend

    run_directory(run_dir)
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(choose_device(None))
    name = DEFAULT if run_dir is None else run_dir.resolve().name
    return PipelineBackend(pipe, name, limits, precision)
