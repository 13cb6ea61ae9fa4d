"""The console command ``ld4lg``. Help is boxed and coloured on a terminal, plain text elsewhere."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ld4lg_fast.cli import guide, sample, serve, verify
from ld4lg_fast.cli.app import PASSES_ON, Seed, app, path
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.export.runtime.renamed import current_words
from ld4lg_fast.export.runtime.text_display import displayed, print_json, terminal_output
from ld4lg_fast.terminal.hydra_arguments import hydra_value, is_override
from ld4lg_fast.terminal.hydra_help import evaluate_help, train_help

__all__ = ["app", "guide", "main", "sample", "serve", "verify"]


@app.command(context_settings=PASSES_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Trains the language autoencoder, then the denoiser of its latents, and keeps all of it in one folder."""
    if "--help" in context.args:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from ld4lg_fast.terminal.hydra_entry import fail, in_one_sentence

        overrides = [word for word in current_words(context.args) if not word.startswith("-")]
        try:
            print(train_help(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            fail(in_one_sentence(error))
        return
    from ld4lg_fast.training import main as train_main

    train_main(context.args)


@app.command(context_settings=PASSES_ON, add_help_option=False)
def evaluate(
    context: typer.Context,
    report: Annotated[Path | None, typer.Option(parser=path, help="HTML page to write.")] = None,
    json: Annotated[
        Path | None, typer.Option(parser=path, help="JSON file to write; - prints it and nothing else.")
    ] = None,
) -> None:
    """Samples from a run and measures the texts: a table, a JSON file and, with --report, a page to look at."""
    if "--help" in context.args:
        print(evaluate_help())
        return
    arguments = context.args
    if arguments and not arguments[0].startswith("-") and not is_override(arguments[0], "test"):
        arguments = [f"infer.output_dir={hydra_value(arguments[0])}", *arguments[1:]]
    if report is not None:
        arguments = [*arguments, f"evaluation.report={hydra_value(report)}"]
    to_stdout = str(json) == "-"
    if json is not None and not to_stdout:
        arguments = [*arguments, f"infer.output_file={hydra_value(json)}"]
    from ld4lg_fast.evaluation.command import main as evaluate_main
    from ld4lg_fast.terminal.console import console

    console.quiet = to_stdout
    sys.argv = ["ld4lg evaluate", *arguments]
    path = evaluate_main()
    if to_stdout and path is not None:
        from json import loads

        print_json(loads(path.read_text(encoding="utf-8")))


@app.command("learn-timesteps")
def learn_timesteps_command(
    run_dir: Annotated[Path, typer.Argument(parser=path, help="Run directory of a finished training.")],
    seed: Seed = 0,
) -> None:
    """Learns where few sampling steps should lie, and keeps it in the run for generation.spacing=learned.

    \b
    ld4lg learn-timesteps outputs/e2e
    python scripts/infer.py infer.output_dir=outputs/e2e generation.spacing=learned generation.num_inference_steps=10
    """
    from ld4lg_fast.cli.infer import choose_device, learn_and_keep_timesteps

    learn_and_keep_timesteps(run_dir, choose_device(None), seed)


@app.command("import-checkpoint")
def import_checkpoint_command(
    source: Annotated[
        Path, typer.Argument(parser=path, help="Folder of a published run, or a weights file in it.")
    ],
    out_dir: Annotated[
        Path, typer.Argument(parser=path, help="Run directory to write; it must not exist or be empty.")
    ],
    autoencoder: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder of the official autoencoder, where args.json is no help."),
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Name or folder of the language model, instead of the settings' one.")
    ] = None,
    dataset_root: Annotated[
        Path | None,
        typer.Option(parser=path, help="Corpus it was trained on, to count text lengths and classes."),
    ] = None,
) -> None:
    """Turns a checkpoint of the official release or of the unofficial implementation into a run directory.

    \b
    ld4lg import-checkpoint saved_diff_models/roc outputs/roc --language-model FOLDER
    ld4lg sample outputs/roc
    """
    import transformers

    from ld4lg_fast.published.import_checkpoint import import_checkpoint

    transformers.utils.logging.disable_progress_bar()
    import_checkpoint(
        source,
        out_dir,
        autoencoder=autoencoder,
        language_model=language_model,
        dataset_root=dataset_root,
    )


@app.command("export")
def export_command(
    run_dir: Annotated[Path, typer.Argument(parser=path, help="Run directory of a finished training.")],
    out_dir: Annotated[
        Path, typer.Argument(parser=path, help="Folder to write; it must not exist or be empty.")
    ],
    precision: Annotated[str, typer.Option(help="fp32, int8 (CPU), fp16 or bf16 (GPU).")] = "fp32",
    validate: Annotated[bool, typer.Option(help="Compare the graphs with PyTorch's numbers.")] = True,
) -> None:
    """Turns a run into a folder of ONNX graphs that samples without PyTorch.

    \b
    ld4lg export outputs/e2e exported --precision int8
    python exported/generate.py --num-samples 8 --seed 1
    """
    from ld4lg_fast.export import require_packages

    require_packages("onnx", "onnxscript", "onnxruntime")
    from ld4lg_fast.export.exporter import export_run

    export_run(run_dir, out_dir, precision, validate)


@app.command("run-onnx", context_settings=PASSES_ON, add_help_option=False)
def run_onnx(
    context: typer.Context,
    out_dir: Annotated[Path, typer.Argument(parser=path, help="Folder that `ld4lg export` wrote.")],
) -> None:
    """Samples from an exported folder without PyTorch."""
    from ld4lg_fast.export import require_packages

    require_packages("onnxruntime")
    from ld4lg_fast.export.runtime.command import main as generate

    asks = "--help" in (str(out_dir), *context.args)
    folder = Path("OUT_DIR") if asks else out_dir
    generate(folder, ["--help"] if asks else context.args, f"ld4lg run-onnx {folder}")


@app.command("bench", context_settings=PASSES_ON)
def bench_command(
    context: typer.Context,
    suite: Annotated[str | None, typer.Argument(help="Which one; without it, all are listed.")] = None,
) -> None:
    """Runs a benchmark of a checkout against the published code; arguments after its name are the benchmark's.

    \b
    ld4lg bench                        what there is
    ld4lg bench all                    all of them, and one page
    ld4lg bench ops -- --help          what one of them can do
    ld4lg bench sample --json out.json
    """
    from ld4lg_fast.cli.bench import run_suite

    raise typer.Exit(run_suite(suite, context.args))


@app.command()
def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Says what is installed, which backends and precisions work on this machine, and why others do not.

    \b
    ld4lg doctor
    ld4lg doctor --json
    """
    from ld4lg_fast.cli.doctor import examine, report

    if json:
        print_json(examine())
    else:
        print("\n".join(map(displayed, report())))


def main() -> None:
    """Runs the command; exit code 2 and one sentence on bad input."""
    with terminal_output():
        try:
            app()
        except (LD4LGError, OSError) as error:
            from ld4lg_fast.terminal.hydra_entry import fail

            if isinstance(error, LD4LGError):
                fail(str(error))
            if error.filename is None:
                raise
            fail(f"{error.filename}: {error.strerror}.")
