"""``ld4lg verify``: repeats what a run says of itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ld4lg_fast.cli.app import app, path


@app.command()
def verify(
    run_dir: Annotated[Path, typer.Argument(parser=path, help="Run directory of a finished training.")],
    samples: Annotated[
        bool, typer.Option("--samples", help="Sample the stored texts again, instead of training again.")
    ] = False,
) -> None:
    """Trains the first steps of a run again and compares their losses; with --samples, samples its texts again.

    Bit-equal on the same processor with the same versions, within a bound elsewhere; exit code 1 on a difference.

    \b
    ld4lg verify outputs/e2e
    ld4lg verify e2e-small --samples
    """
    import transformers

    from ld4lg_fast.checkpoints.run_directory import RunDirectory
    from ld4lg_fast.checkpoints.shipped import run_directory
    from ld4lg_fast.terminal.console import console

    transformers.utils.logging.disable_progress_bar()
    folder = run_directory(run_dir)
    found: list[Any]
    if samples:
        from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
        from ld4lg_fast.training.stored_samples import repeat_samples

        pipe = TextDiffusionPipeline.from_pretrained(folder)
        found = [repeat_samples(pipe, RunDirectory(folder).stored_samples)]
    else:
        from ld4lg_fast.training.verification import verify_training

        found = verify_training(folder)
    for comparison in found:
        console.print(str(comparison))
    if not all(comparison.passed for comparison in found):
        raise typer.Exit(1)
