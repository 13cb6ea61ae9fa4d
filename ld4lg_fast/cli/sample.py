"""``ld4lg sample`` and ``ld4lg demo``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ld4lg_fast.cli.app import NumSamples, OwnOptions, Seed, app, path
from ld4lg_fast.export.runtime.text_display import print_json, typed
from ld4lg_fast.terminal.hydra_arguments import hydra_value

DEMO_PROMPT = "The Old Mill is a cheap Italian pub near the river."


@app.command()
def demo(
    output_dir: Annotated[Path, typer.Option(parser=path, help="Run directory.")] = Path(
        "outputs/ld4lg-demo"
    ),
    num_samples: NumSamples = 12,
    seed: Seed = 1,
    documents: Annotated[
        bool, typer.Option("--documents", help="Train on documents, and continue a prompt.")
    ] = False,
) -> None:
    """Trains a tiny model on a generated corpus in front of you, then samples from it; a few minutes on a CPU.

    \b
    ld4lg demo
    ld4lg demo --output-dir outputs/first --num-samples 4
    ld4lg demo --documents
    """
    from ld4lg_fast.options.checks import check_options
    from ld4lg_fast.training import main as train_main

    check_options(num_samples=num_samples, seed=seed)
    options = ["dataset=demo", "model=tiny", "train.max_minutes=4"]
    if documents:
        options += ["dataset.documents=true", "recipe=blocks"]
    # After so short a training likely words without repetition read best.
    options += ["decoding.top_p=0.8", "decoding.no_repeat_ngram_size=3", "decoding.repetition_penalty=1.2"]
    train_main([*options, f"hydra.run.dir={hydra_value(output_dir)}"])
    sample(
        output_dir,
        num_samples=num_samples,
        prompt=DEMO_PROMPT if documents else None,
        max_new_tokens=120 if documents else None,
        num_inference_steps=50,
        seed=seed,
    )


@app.command(cls=OwnOptions)
def sample(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            parser=path, help="Run directory of a finished training; without it the model that ships."
        ),
    ] = None,
    num_samples: Annotated[
        int | None, typer.Option(help="How many texts to sample; default 8, or one for each prompt.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue (models of recipe blocks, trained on documents).")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="File of prompts: .txt (one a line), .jsonl, .json, .csv or .tsv (column prompt).",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Most tokens to add to a prompt; a document may end by itself before.")
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="Sampler and steps: paper (default of your own runs), balanced or draft (default of models that ship)."
        ),
    ] = None,
    num_inference_steps: Annotated[
        int | None, typer.Option(help="Sampling steps; overrides the preset's.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(help="unipc, dpmpp_2m, ddpm, …; overrides the preset's; docs/sampling.md lists all."),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="Of ddim: 0 is deterministic, 1 ancestral sampling.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Precision of matmuls: bf16, int8 on a CPU, …")
    ] = None,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Same texts, bit by bit, in every batch (CPU; slower).")
    ] = False,
    strategy: Annotated[
        str | None,
        typer.Option(help="Decoding strategy: greedy, beam or nucleus; default the model's own."),
    ] = None,
    best_of: Annotated[
        int | None,
        typer.Option(
            help="Sample this many times as many texts and keep those with the highest log-probability, or with "
            "--length those nearest in length; default 1 for your own runs, 4 for models that ship."
        ),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option(help="Class of all texts (class-conditional models).")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Source text (sequence-to-sequence models).")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Classifier-free guidance on class or source; 1 is none.")
    ] = None,
    guide: Annotated[
        list[str] | None,
        typer.Option(
            help="What texts should be like, as food=Italian, food=Italian:5 (weight 5) or length=20."
        ),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Approximate number of tokens; see also --best-of."),
    ] = None,
    seed: Seed = 0,
    json: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Also write the texts to this JSON file; - prints JSON and nothing else. FILE.jsonl is written batch "
            "by batch, for any number of texts, and the same command goes on with it after an interruption.",
        ),
    ] = None,
) -> None:
    """Samples texts from a run directory and prints them.

    \b
    ld4lg sample --num-samples 50 --seed 1
    ld4lg sample outputs/e2e --num-samples 16 --quality balanced
    ld4lg sample outputs/e2e --sampler dpmpp_2m --num-inference-steps 20 --strategy nucleus --json texts.json
    ld4lg sample --guide food=Italian --guide family=no
    ld4lg sample outputs/e2e --num-samples 1000000 --quality draft --json texts.jsonl
    ld4lg sample outputs/ag_news --class-name Sports --guidance-scale 4
    ld4lg sample outputs/documents --prompt "The Old Mill is a pub." --max-new-tokens 200
    """
    from dataclasses import asdict, replace

    from ld4lg_fast.checkpoints.files import write_json
    from ld4lg_fast.checkpoints.shipped import DEFAULT, FOLDER, run_directory
    from ld4lg_fast.cli.given_texts import choose_prompts
    from ld4lg_fast.cli.sampled_texts import SampledTexts
    from ld4lg_fast.cli.sampling_output import print_texts
    from ld4lg_fast.cli.text_lines import SUFFIX, digest, model_identity, write_lines
    from ld4lg_fast.engine.engine import check_fits
    from ld4lg_fast.export.runtime.guide_options import parse_guides
    from ld4lg_fast.options.checks import as_config_errors, check_given, choose_device, output_file
    from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
    from ld4lg_fast.pipeline.presets import sampling_plan
    from ld4lg_fast.terminal.console import console
    from ld4lg_fast.training.session import start_processes

    to_stdout = str(json) == "-"
    console.quiet = to_stdout
    file = None if json is None or to_stdout else output_file("--json", json)
    ships = run_directory(run_dir).parent == FOLDER
    quality = ("draft" if ships else "paper") if quality is None else quality
    best_of_default = best_of is None
    best_of = (4 if ships else 1) if best_of is None else best_of
    # What is wrong is said before the model is loaded.
    prompts = choose_prompts(prompt, prompt_file)
    with as_config_errors():
        guides, guide_scales = parse_guides([typed(word) for word in guide or ()])
    check_given(num_samples=num_samples, max_new_tokens=max_new_tokens)
    check_given(best_of=best_of, eta=eta, guidance_scale=guidance_scale, seed=seed)
    sampling_plan(quality, sampler, num_inference_steps)
    pipe = TextDiffusionPipeline.from_pretrained(run_dir).to(choose_device(None))
    pipe.set_deterministic(deterministic)
    class_name, source = (None if text is None else typed(text) for text in (class_name, source))
    if num_samples is None:
        num_samples = 8 if prompts is None or len(prompts) == 1 else len(prompts)
    own = pipe.decoding
    decoding = replace(own, strategy=own.strategy if strategy is None else strategy, precision=precision)
    settings: dict[str, Any] = {
        "quality": quality,
        "sampler": sampler,
        "num_inference_steps": num_inference_steps,
        "eta": eta,
        "precision": precision,
        "best_of": best_of,
        "length": length,
        "class_name": class_name,
        "source": source,
        "guidance_scale": guidance_scale,
        "seed": seed,
    }
    asked: dict[str, Any] = {"prompt": prompts, "max_new_tokens": max_new_tokens}
    asked |= {"guides": guides or None, "guide_scales": guide_scales or None}
    if pipe.model.writes_documents:
        settings["best_of"] = 1 if best_of_default else best_of
    settings |= {name: value for name, value in asked.items() if value is not None}
    sampled = SampledTexts.of(pipe, num_samples, decoding, **settings)
    if file is not None and file.suffix == SUFFIX:
        begun = model_identity(run_dir, pipe) | {
            "decoding": asdict(decoding),
            "prompts": digest(sampled.prompts),
        }
        if deterministic:
            begun["deterministic"] = True
        begun |= {"options": {name: value for name, value in settings.items() if name != "prompt"}}
        write_lines(file, num_samples, sampled.batch_size, begun, sampled.rows, start_processes())
        return
    check_fits(pipe.model, num_samples * best_of, kept=False)
    rows, seconds = sampled.every_row()
    texts = {
        column: [row[name] for row in rows]
        for name, column in (("text", "texts"), ("prompt", "prompts"))
        if name in rows[0]
    }
    print_texts(texts["texts"], seconds, texts.get("prompts"))
    if json is None:
        return
    content = texts | {
        "run": str(DEFAULT if run_dir is None else run_dir),
        "settings": settings | {"deterministic": deterministic},
        "decoding": asdict(decoding),
        "seconds": round(seconds, 3),
    }
    if file is None:
        print_json(content)
    else:
        write_json(file, content)
