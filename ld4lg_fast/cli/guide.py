"""``ld4lg guide``: learns a guide from labelled texts and keeps it in a run."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ld4lg_fast.cli.app import Seed, app, path


@app.command()
def guide(
    run_dir: Annotated[Path, typer.Argument(parser=path, help="Run directory of a finished training.")],
    data: Annotated[
        Path, typer.Option(parser=path, help="Labelled texts: a .jsonl, .json, .csv or .tsv file.")
    ],
    label_column: Annotated[
        str | None, typer.Option(help="Column of classes; a text without one is of none of them.")
    ] = None,
    target_column: Annotated[str | None, typer.Option(help="Column of numbers, instead of classes.")] = None,
    text_column: Annotated[
        str | None, typer.Option(help="Column of texts; default one of the usual names.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the guide; default that of the column.")] = None,
    source_column: Annotated[
        str | None, typer.Option(help="Column of source texts (sequence-to-sequence models).")
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="Texts of the model that it learns from; default 2000.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Learns what leads texts to a class, or to a number, from some hundred labelled texts, and keeps it in the run.

    \b
    ld4lg guide outputs/e2e --data labelled.jsonl --label-column food
    ld4lg guide outputs/e2e --data labelled.csv --target-column rating --name stars
    ld4lg sample outputs/e2e --guide food=Italian --guide stars=5:2
    """
    from ld4lg_fast.checkpoints import fingerprint
    from ld4lg_fast.checkpoints.run_lock import RunLock
    from ld4lg_fast.cli.infer import choose_device
    from ld4lg_fast.data.labelled import read_labelled
    from ld4lg_fast.errors import CheckpointError, ConfigError
    from ld4lg_fast.options.checks import check, check_folder, check_given
    from ld4lg_fast.pipeline.guide_operations import GUIDE_SAMPLES
    from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
    from ld4lg_fast.pipeline.text_guide import FOLDER, check_name
    from ld4lg_fast.terminal.console import console, progress_bar

    if (label_column is None) == (target_column is None):
        raise ConfigError("A guide needs one column: give either --label-column or --target-column.")
    name = check_name(label_column or target_column if name is None else name)
    check_given(num_samples=num_samples)
    check("seed", seed)
    texts = read_labelled(
        data,
        text_column=text_column,
        label_column=label_column,
        target_column=target_column,
        source_column=source_column,
    )
    if not (run_dir / "denoiser").is_dir():
        raise CheckpointError(
            f"{run_dir} is no folder that the guide could be kept in; copy the model with save_pretrained and name the "
            "copy."
        )
    check_folder("RUN_DIR", run_dir / FOLDER)
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(choose_device(None))
    num_samples = GUIDE_SAMPLES if num_samples is None else num_samples
    with RunLock(run_dir), progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task("denoising", total=total)
            bar.update(tasks[phase], completed=done)

        options: dict[str, Any] = (
            {} if texts.sources is None else {"source": texts.repeated_sources(num_samples)}
        )
        learned = pipe.learn_guides({name: texts}, num_samples, seed=seed, progress=progress, **options)[name]
        with fingerprint.renewed(run_dir):
            learned.save(run_dir / FOLDER, name)
    kept, words = learned.facts["held_out"], learned.facts["held_out_words"]
    what = "error" if texts.numeric else "accuracy"
    console.print(
        f"{what.capitalize()} on held-out texts, by their words: {words:.3g}; on held-out samples, from noise to data: "
        f"{', '.join(f'{each:.3g}' for each in kept)}. Kept in {run_dir / FOLDER} for --guide {name}=…"
    )
