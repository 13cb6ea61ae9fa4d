"""The console command ``ld4lg``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ld4lg_fast.errors import LD4LGError

app = typer.Typer(
    name="ld4lg",
    help="Fast latent diffusion for language generation: train, sample, evaluate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

NumSamples = Annotated[int, typer.Option(help="How many texts to sample.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same texts.")]


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(help="Run directory.")] = Path("outputs/ld4lg-demo"),
    num_samples: NumSamples = 12,
    seed: Seed = 1,
) -> None:
    """Trains a tiny model on a generated corpus in front of you, then samples from it; a few minutes on a CPU."""
    from ld4lg_fast.training import main as train_main

    train_main(["dataset=demo", "model=tiny", "train.max_minutes=4", f"hydra.run.dir={output_dir}"])
    sample(output_dir, num_samples=num_samples, steps=50, seed=seed)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def train(context: typer.Context) -> None:
    """Trains: the same options as scripts/train.py, e.g. `ld4lg train dataset=e2e model=small`."""
    from ld4lg_fast.training import main as train_main

    train_main(context.args)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def evaluate(context: typer.Context) -> None:
    """Measures a run: the same options as scripts/test.py, e.g. `ld4lg evaluate infer.output_dir=outputs/e2e`."""
    from ld4lg_fast.evaluation.entry import main as evaluate_main

    sys.argv = ["ld4lg evaluate", *context.args]
    evaluate_main()


@app.command()
def sample(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    num_samples: NumSamples = 8,
    quality: Annotated[str, typer.Option(help="paper, balanced or draft: sampler and steps.")] = "paper",
    steps: Annotated[
        int | None, typer.Option(help="Network evaluations a text, if not the preset's.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="unipc, dpmpp_2m, ddpm, …, if not the preset's; README lists all.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the products, e.g. bf16, or int8 on a CPU.")
    ] = None,
    strategy: Annotated[str, typer.Option(help="How latents become text: greedy, beam or nucleus.")] = "beam",
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option(help="Also write the texts to this JSON file.")] = None,
) -> None:
    """Samples texts from a run directory and prints them."""
    from ld4lg_fast.decoding import DecodingConfig
    from ld4lg_fast.inference import choose_device, load_and_sample, print_texts
    from ld4lg_fast.weights import write_json

    texts, seconds = load_and_sample(
        run_dir,
        choose_device(None),
        num_samples=num_samples,
        quality=quality,
        num_inference_steps=steps,
        sampler=sampler,
        precision=precision,
        decoding=DecodingConfig(strategy, precision=precision),
        seed=seed,
    )
    print_texts(texts, seconds)
    if json is not None:
        settings = {"quality": quality, "steps": steps, "sampler": sampler, "precision": precision}
        settings |= {"strategy": strategy, "seed": seed}
        write_json(
            json, {"texts": texts, "run": str(run_dir), "settings": settings, "seconds": round(seconds, 3)}
        )


@app.command("learn-times")
def learn_times_command(
    run_dir: Annotated[Path, typer.Argument(help="Run directory of a finished training.")],
    seed: Seed = 0,
) -> None:
    """Learns where few sampling steps should lie, and keeps it in the run for generation.spacing=learned."""
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
    """Turns a checkpoint of the official release or of the unofficial implementation into a run directory."""
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
    """Turns a run into a folder of ONNX graphs that samples without PyTorch."""
    from ld4lg_fast.export import require_packages

    require_packages("onnx", "onnxscript", "onnxruntime")
    from ld4lg_fast.export.exporter import export_run

    export_run(run_dir, out_dir, precision, validate)


@app.command(
    "run-onnx",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run_onnx(
    context: typer.Context,
    out_dir: Annotated[Path, typer.Argument(help="Folder that `ld4lg export` wrote.")],
) -> None:
    """Samples from an exported folder: the same options as its generate.py, e.g. `--num-samples 8 --seed 1`."""
    from ld4lg_fast.export import require_packages

    require_packages("onnxruntime")
    from ld4lg_fast.export.runtime.command import main as generate

    generate(out_dir, context.args)


@app.command()
def doctor() -> None:
    """Says what is installed and which backends work, and why not."""
    from ld4lg_fast.doctor import report

    for line in report():
        print(line)


def main() -> None:
    """Runs the command; exit code 2 and one sentence on bad input."""
    from ld4lg_fast.entry import fail

    try:
        app()
    except LD4LGError as error:
        fail(str(error))
