"""The console command ``ld4lg``. Help is boxed and coloured on a terminal, plain text elsewhere."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.export.runtime.text_display import displayed, print_json, terminal_output, typed
from ld4lg_fast.terminal.hydra_help import evaluate_help, hydra_value, is_override, train_help

HELP = """Fast latent diffusion for language generation: train, sample, evaluate, deploy.

\b
ld4lg sample                                        texts from the small model that comes along
ld4lg demo                                          see one trained, a few minutes on a CPU
ld4lg train dataset=custom dataset.root=texts.txt   train on your own texts
ld4lg sample outputs/custom --num-samples 16        texts from a finished run
ld4lg evaluate outputs/custom --report page.html    how good they are, as a page
ld4lg export outputs/custom exported                a folder that needs no PyTorch
ld4lg doctor                                        what works on this machine

Each command explains itself: ld4lg COMMAND --help. Exit codes: 0 done, 2 bad input (one sentence says what to
change), 130 ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 141 by a closed pipe (as with | head -1).
"""


class Commands(TyperGroup):
    """The commands and their help within `terminal_output`, as typer has an exit code of its own for a closed pipe."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with terminal_output():
            return super().make_context(*arguments, **options)

    def invoke(self, context: Any) -> Any:
        with terminal_output():
            return super().invoke(context)


app = typer.Typer(
    name="ld4lg",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout is not None and sys.stdout.isatty() else None,
)

# Of the commands whose further arguments go to somebody else.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def path(text: str | Path) -> Path:
    """A path of the command line; an empty one would be the current directory."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a file or a folder.")
    return Path(text)


NumSamples = Annotated[int, typer.Option(help="How many texts to sample.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same texts.")]


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(parser=path, help="Run directory.")] = Path(
        "outputs/ld4lg-demo"
    ),
    num_samples: NumSamples = 12,
    seed: Seed = 1,
) -> None:
    """Trains a tiny model on a generated corpus in front of you, then samples from it; a few minutes on a CPU.

    \b
    ld4lg demo
    ld4lg demo --output-dir outputs/first --num-samples 4
    """
    from ld4lg_fast.options.checks import check_options
    from ld4lg_fast.training import main as train_main

    check_options(num_samples=num_samples, seed=seed)
    options = ["dataset=demo", "model=tiny", "train.max_minutes=4"]
    # After so short a training likely words without repetition read best.
    options += ["decoding.top_p=0.8", "decoding.no_repeat_ngram_size=3", "decoding.repetition_penalty=1.2"]
    train_main([*options, f"hydra.run.dir={hydra_value(output_dir)}"])
    sample(output_dir, num_samples=num_samples, steps=50, seed=seed)


@app.command(context_settings=PASSES_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Trains the language autoencoder, then the denoiser of its latents, and keeps all of it in one folder."""
    if "--help" in context.args:
        print(train_help())
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
    from ld4lg_fast.evaluation.entry import main as evaluate_main
    from ld4lg_fast.terminal.console import console

    console.quiet = to_stdout
    sys.argv = ["ld4lg evaluate", *arguments]
    path = evaluate_main()
    if to_stdout and path is not None:
        from json import loads

        print_json(loads(path.read_text(encoding="utf-8")))


@app.command()
def sample(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            parser=path, help="Run directory of a finished training; without it the model that ships."
        ),
    ] = None,
    num_samples: NumSamples = 8,
    quality: Annotated[
        str | None,
        typer.Option(
            help="Sampler and steps: paper, balanced or draft; paper of your own runs, draft of a model that ships."
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations a text, if not the preset's.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="unipc, dpmpp_2m, ddpm, …, if not the preset's; docs/sampling.md lists all."),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the products, e.g. bf16, or int8 on a CPU.")
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(help="How latents become text, if not the model's own: greedy, beam or nucleus."),
    ] = None,
    tries: Annotated[
        int | None,
        typer.Option(
            help="Sample this many times as many texts, and keep those of which the decoder is surest, or those "
            "nearest in length; 1 of your own runs, 4 of a model that ships."
        ),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option(help="Class of all texts, for a model that was trained with classes.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Text to write from, for a sequence-to-sequence model.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="How much the class or the source counts; 1 is as in training.")
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens that the texts should have, about; see also --tries."),
    ] = None,
    seed: Seed = 0,
    json: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="Also write the texts to this JSON file; - prints JSON and nothing else."
        ),
    ] = None,
) -> None:
    """Samples texts from a run directory and prints them.

    \b
    ld4lg sample --num-samples 50 --seed 1
    ld4lg sample outputs/e2e --num-samples 16 --quality balanced
    ld4lg sample outputs/e2e --sampler dpmpp_2m --steps 20 --strategy nucleus --json texts.json
    ld4lg sample outputs/ag_news --class-name Sports --guidance-scale 4
    """
    from dataclasses import asdict, replace

    from ld4lg_fast.checkpoints.files import write_json
    from ld4lg_fast.checkpoints.shipped import DEFAULT, FOLDER, run_directory
    from ld4lg_fast.cli.infer import choose_device, print_texts, sample_with_bar
    from ld4lg_fast.options.checks import check_given, output_file
    from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
    from ld4lg_fast.pipeline.presets import sampling_plan
    from ld4lg_fast.terminal.console import console

    to_stdout = str(json) == "-"
    console.quiet = to_stdout
    file = None if json is None or to_stdout else output_file("--json", json)
    ships = run_directory(run_dir).parent == FOLDER
    quality = ("draft" if ships else "paper") if quality is None else quality
    tries = (4 if ships else 1) if tries is None else tries
    # What is wrong is said before the model is loaded.
    check_given(num_samples=num_samples, steps=steps, tries=tries, guidance_scale=guidance_scale, seed=seed)
    sampling_plan(quality, sampler, steps)
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(choose_device(None))
    class_name, source = (None if text is None else typed(text) for text in (class_name, source))
    own = pipe.decoding
    decoding = replace(own, strategy=own.strategy if strategy is None else strategy, precision=precision)
    settings: dict[str, Any] = {
        "quality": quality,
        "sampler": sampler,
        "precision": precision,
        "tries": tries,
        "length": length,
        "class_name": class_name,
        "source": source,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }
    output, seconds = sample_with_bar(
        pipe, num_samples=num_samples, num_inference_steps=steps, decoding=decoding, **settings
    )
    print_texts(output.texts, seconds)
    if json is None:
        return
    content = {
        "texts": output.texts,
        "run": str(DEFAULT if run_dir is None else run_dir),
        "settings": settings | {"steps": steps},
        "decoding": asdict(decoding),
        "seconds": round(seconds, 3),
    }
    if file is None:
        print_json(content)
    else:
        write_json(file, content)


@app.command("learn-times")
def learn_times_command(
    run_dir: Annotated[Path, typer.Argument(parser=path, help="Run directory of a finished training.")],
    seed: Seed = 0,
) -> None:
    """Learns where few sampling steps should lie, and keeps it in the run for generation.spacing=learned.

    \b
    ld4lg learn-times outputs/e2e
    python scripts/infer.py infer.output_dir=outputs/e2e generation.spacing=learned generation.sampling_steps=10
    """
    from ld4lg_fast.cli.infer import choose_device, learn_and_keep_times

    learn_and_keep_times(run_dir, choose_device(None), seed)


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
    precision: Annotated[
        str, typer.Option(help="float32, int8 (CPU), float16 or bfloat16 (GPU).")
    ] = "float32",
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
