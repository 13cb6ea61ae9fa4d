"""The console command ``ld4lg``. Help is boxed and coloured on a terminal, plain text elsewhere."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.hydra_help import choices_of, hydra_value, options_of

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
change), 130 interrupted.
"""

app = typer.Typer(
    name="ld4lg",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
)

# Of the commands whose further arguments go to somebody else.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

NumSamples = Annotated[int, typer.Option(help="How many texts to sample.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same texts.")]


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Run directory.")] = Path("outputs/ld4lg-demo"),
    num_samples: NumSamples = 12,
    seed: Seed = 1,
) -> None:
    """Trains a tiny model on a generated corpus in front of you, then samples from it; a few minutes on a CPU.

    \b
    ld4lg demo
    ld4lg demo --output-dir outputs/first --num-samples 4
    """
    from ld4lg_fast.training import main as train_main

    options = ["dataset=demo", "model=tiny", "train.max_minutes=4"]
    # After so short a training likely words without repetition read best.
    options += ["decoding.top_p=0.8", "decoding.no_repeat_ngram_size=3", "decoding.repetition_penalty=1.2"]
    train_main([*options, f"hydra.run.dir={hydra_value(output_dir)}"])
    sample(output_dir, num_samples=num_samples, steps=50, seed=seed)


@app.command(context_settings=PASSES_ON, add_help_option=False)
def train(context: typer.Context) -> None:
    """Trains the language autoencoder, then the denoiser of its latents, and keeps all of it in one folder."""
    if "--help" in context.args:
        print(TRAIN_HELP.format(groups=choices_of(*GROUPS), options=options_of("train")))
        return
    from ld4lg_fast.training import main as train_main

    train_main(context.args)


GROUPS = ("dataset", "model", "autoencoder", "recipe")

TRAIN_HELP = """Usage: ld4lg train [OPTION=VALUE ...]

Trains the language autoencoder, then the denoiser of its latents. A run directory (by default
outputs/<dataset>) holds everything; Ctrl-C saves, and resume=true goes on.

Examples:
  ld4lg train dataset=demo model=tiny train.max_minutes=4
  ld4lg train dataset=custom dataset.root=my_texts.txt model=small train.max_minutes=30
  ld4lg train resume=true hydra.run.dir=outputs/custom
  ld4lg train dataset=e2e model=base autoencoder=bart --cfg job   (prints all options, trains nothing)

Several processes or GPUs: accelerate launch -m ld4lg_fast.training [OPTION=VALUE ...]

Choices:
{groups}

Options and their values, as in train.max_minutes=30; model= and recipe= replace some, hydra.run.dir= says where
the run goes:

{options}"""


@app.command(context_settings=PASSES_ON, add_help_option=False)
def evaluate(
    context: typer.Context,
    report: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    json: Annotated[
        Path | None, typer.Option(help="JSON file to write; - prints it and nothing else.")
    ] = None,
) -> None:
    """Samples from a run and measures the texts: a table, a JSON file and, with --report, a page to look at."""
    if "--help" in context.args:
        print(EVALUATE_HELP.format(options=options_of("test")))
        return
    arguments = context.args
    if arguments and "=" not in arguments[0] and not arguments[0].startswith("-"):
        arguments = [f"infer.output_dir={hydra_value(arguments[0])}", *arguments[1:]]
    if report is not None:
        arguments = [*arguments, f"evaluation.report={hydra_value(report)}"]
    to_stdout = str(json) == "-"
    if json is not None and not to_stdout:
        arguments = [*arguments, f"infer.output_file={hydra_value(json)}"]
    from ld4lg_fast.console import console
    from ld4lg_fast.evaluation.entry import main as evaluate_main

    console.quiet = to_stdout
    sys.argv = ["ld4lg evaluate", *arguments]
    path = evaluate_main()
    if to_stdout and path is not None:
        print(path.read_text(encoding="utf-8"), end="")


EVALUATE_HELP = """Usage: ld4lg evaluate RUN_DIR [--report PAGE.html] [--json FILE] [OPTION=VALUE ...]

Samples from a run and measures the texts beside real ones: a table, a JSON file in the run directory (or FILE; with
--json - it is printed, and nothing else) and, with --report, one self-contained page of figures, plots and samples. A
metric whose model is not at hand is skipped.

Examples:
  ld4lg evaluate outputs/e2e --report page.html
  ld4lg evaluate outputs/e2e generation.num_samples=200 generation.quality=balanced 'evaluation.seeds=[0,1]'
  ld4lg evaluate outputs/e2e evaluation.mauve_model=FOLDER evaluation.perplexity_model=FOLDER

Options and their values, as in generation.num_samples=200:

{options}"""


@app.command()
def sample(
    run_dir: Annotated[
        Path | None,
        typer.Argument(help="Run directory of a finished training; without it the model that ships."),
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
        typer.Option(help="Also write the texts to this JSON file; - prints JSON and nothing else."),
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
    from json import dumps

    from ld4lg_fast.console import console
    from ld4lg_fast.inference import choose_device, print_texts, sample_with_bar
    from ld4lg_fast.pipeline import TextDiffusionPipeline
    from ld4lg_fast.shipped import DEFAULT, FOLDER, run_directory
    from ld4lg_fast.weights import write_json

    to_stdout = str(json) == "-"
    console.quiet = to_stdout
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(choose_device(None))
    ships = run_directory(run_dir).parent == FOLDER
    quality = quality or ("draft" if ships else "paper")
    tries = tries or (4 if ships else 1)
    decoding = replace(pipe.decoding, strategy=strategy or pipe.decoding.strategy, precision=precision)
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
        "run": str(run_dir or DEFAULT),
        "settings": settings | {"steps": steps},
        "decoding": asdict(decoding),
        "seconds": round(seconds, 3),
    }
    if to_stdout:
        print(dumps(content, indent=2, ensure_ascii=False))
    else:
        write_json(json, content)


@app.command("learn-times")
def learn_times_command(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    seed: Seed = 0,
) -> None:
    """Learns where few sampling steps should lie, and keeps it in the run for generation.spacing=learned.

    \b
    ld4lg learn-times outputs/e2e
    python scripts/infer.py infer.output_dir=outputs/e2e generation.spacing=learned generation.sampling_steps=10
    """
    from ld4lg_fast.inference import choose_device, learn_and_keep_times

    learn_and_keep_times(run_dir, choose_device(None), seed)


@app.command("import-checkpoint")
def import_checkpoint_command(
    source: Annotated[Path, typer.Argument(help="Folder of a published run, or a weights file in it.")],
    out_dir: Annotated[Path, typer.Argument(help="Run directory to write; it must not exist or be empty.")],
    autoencoder: Annotated[
        Path | None, typer.Option(help="Folder of the official autoencoder, where args.json is no help.")
    ] = None,
    language_model: Annotated[
        str | None, typer.Option(help="Name or folder of the language model, instead of the settings' one.")
    ] = None,
    dataset_root: Annotated[
        Path | None, typer.Option(help="Corpus it was trained on, to count text lengths and classes.")
    ] = None,
) -> None:
    """Turns a checkpoint of the official release or of the unofficial implementation into a run directory.

    \b
    ld4lg import-checkpoint saved_diff_models/roc outputs/roc --language-model FOLDER
    ld4lg sample outputs/roc
    """
    import transformers

    from ld4lg_fast.import_checkpoint import import_checkpoint

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
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder to write; it must not exist or be empty.")],
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
    out_dir: Annotated[Path, typer.Argument(help="Folder that `ld4lg export` wrote.")],
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
    from ld4lg_fast.bench import run_suite

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
    from ld4lg_fast.doctor import examine, report

    if json:
        from json import dumps

        print(dumps(examine(), indent=2))
    else:
        print("\n".join(report()))


def main() -> None:
    """Runs the command; exit code 2 and one sentence on bad input."""
    from ld4lg_fast.entry import fail

    try:
        app()
    except LD4LGError as error:
        fail(str(error))
