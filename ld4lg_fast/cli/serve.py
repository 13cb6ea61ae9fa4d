"""``ld4lg serve``."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ld4lg_fast.cli.app import app, path
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.serving.flags import HELP, check_flags, read_key

if TYPE_CHECKING:
    from ld4lg_fast.export.runtime.serving.backend import Backend
    from ld4lg_fast.export.runtime.serving.limits import Limits

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


@app.command()
def serve(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            parser=path,
            help="Run directory of a finished training, or an exported folder; without it the model that ships.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help=HELP["host"])] = "127.0.0.1",
    port: Annotated[int, typer.Option(help=HELP["port"])] = 8000,
    precision: Annotated[
        str | None, typer.Option(help="Precision of the denoiser's matmuls: bf16, int8 on a CPU, …")
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option("--deterministic", help="Same texts, bit by bit, whatever else runs (CPU; slower)."),
    ] = False,
    api_key_env: Annotated[str | None, typer.Option(help=HELP["api_key_env"])] = None,
    max_samples: Annotated[int, typer.Option(help=HELP["max_samples"])] = 32,
    max_steps: Annotated[int, typer.Option(help=HELP["max_steps"])] = 1000,
    max_running: Annotated[int, typer.Option(help=HELP["max_running"])] = 64,
    max_waiting: Annotated[int, typer.Option(help=HELP["max_waiting"])] = 256,
    max_body: Annotated[int, typer.Option(help=HELP["max_body"])] = 2**20,
    max_seconds: Annotated[float, typer.Option(help=HELP["max_seconds"])] = 120.0,
) -> None:
    """Serves a model over HTTP as OpenAI's API does, with a page to play with at its address.

    \b
    ld4lg serve
    ld4lg serve outputs/e2e --port 8080
    ld4lg serve exported
    API_KEY=secret ld4lg serve outputs/e2e --host 0.0.0.0 --api-key-env API_KEY

    SIGTERM and Ctrl-C end it with exit code 0 when accepted requests are answered; a second one ends it at once.
    """
    bounds: dict[str, Any] = {
        "max_samples": max_samples,
        "max_steps": max_steps,
        "max_running": max_running,
        "max_waiting": max_waiting,
        "max_body": max_body,
        "max_seconds": max_seconds,
    }
    try:
        check_flags({"port": port, **bounds})
        key = read_key(api_key_env, os.environ)
        for package in PACKAGES:
            if find_spec(package) is None:
                raise ConfigError(
                    f"ld4lg serve needs the package {package.replace('_', '-')}, which is not installed: pip install "
                    "'ld4lg-fast[serve]'."
                )
        from ld4lg_fast.engine.precision import checked_precision
        from ld4lg_fast.export.runtime.serving.limits import Limits
        from ld4lg_fast.export.runtime.serving.server import serve as run

        checked_precision(precision)

        limits = Limits(**bounds)
        run(
            lambda: _loaded(run_dir, limits, precision, deterministic),
            host=host,
            port=port,
            limits=limits,
            api_key=key,
        )
    except RuntimeInputError as error:
        raise ConfigError(str(error)) from error


def _loaded(folder: Path | None, limits: "Limits", precision: str | None, deterministic: bool) -> "Backend":
    """The model of a run or of an exported folder.

    Raises:
        LD4LGError, RuntimeInputError: there is none, or a precision or ``deterministic`` that it cannot have.
    """
    if folder is None or not _is_exported(folder):
        from ld4lg_fast.checkpoints.shipped import DEFAULT
        from ld4lg_fast.options.checks import choose_device
        from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
        from ld4lg_fast.serving.pipeline_backend import PipelineBackend

        pipe = TextDiffusionPipeline.from_pretrained(folder).to(choose_device(None))
        pipe.set_deterministic(deterministic)
        name = DEFAULT if folder is None else folder.resolve().name
        backend = PipelineBackend(pipe, name, limits, precision)
        backend.warm_up()
        return backend
    from ld4lg_fast.export import require_packages

    require_packages("onnxruntime")
    if precision is not None:
        raise ConfigError(f"--precision is {precision}, but the folder {folder} has its own; leave it out.")
    if deterministic:
        raise ConfigError(
            f"--deterministic is for run directories, and {folder} is an exported folder; leave it out."
        )
    from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
    from ld4lg_fast.export.runtime.serving.onnx_backend import OnnxBackend

    return OnnxBackend(OnnxTextDiffusion(folder), folder.resolve().name, limits)


def _is_exported(folder: Path) -> bool:
    """Whether a folder is what ``ld4lg export`` writes, and no run."""
    return (folder / "config.json").is_file() and not (folder / "denoiser").is_dir()
