"""The text decoder against transformers' ``generate``: sentences a second, latency, agreement of the tokens.

python benchmarks/decode_throughput.py [--config bart-base|small|smollm2-135m|small-causal] [--run RUN_DIR]
    [--device cpu|cuda] [--batch-sizes N ...] [--strategies greedy beam nucleus] [--precisions fp32 bf16 int8 ...]
    [--rounds N] [--json FILE [--add]]

The model has random weights that make its texts vary, and random encoder states; they seldom end early, so every
sentence has about --max-length tokens. With --run the language model and the latents are those of a trained run:
only then does ``token_agreement`` of bf16 and int8 mean something. Beam search follows the paper's rules. All ways
of a strategy and batch size run in turns. With --json a plot is written beside the file; --add keeps what the file
says of other strategies and batch sizes, each of which was measured beside its own ``generate``.

Decoder-only models read a soft prefix of 32 embeddings and write --max-length tokens without rules. A step reads every
weight once: for SmolLM2-135M 134.5 million numbers, 538 MB in float32, 269 in bfloat16, 135 in int8. So a step of few
texts takes at least that many bytes over the memory's bandwidth; a step of R texts has 269·R million
floating-point operations, and its soft prefixes 212·32·R million once.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from harness import (
    Timing,
    add_device,
    add_precisions,
    can_plot,
    chosen_device,
    describe_device,
    timed,
    versions,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.graph_counts import CountedCall, GraphCounts, counted_graphs, graph_fault
from benchmarks.language_models import CAUSAL_SIZES, SIZES, random_bart, random_llama
from ld4lg_fast.decoding import NO_RULES, STRATEGIES, DecodingConfig, generate, generate_ids
from ld4lg_fast.engine.precision import PRECISIONS
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

INIT_STD = {"bart-base": 0.05, "small": 0.1, "smollm2-135m": 0.05, "small-causal": 0.1}
LATENTS, SAMPLING_STEPS = 32, 25


def random_model(config: str) -> PreTrainedModel:
    """A BART of that size whose head is its own, as an untrained tied one repeats a single token; or a Llama.

    Its weights are large enough that texts vary, and small enough that rounding is not amplified: then even the
    tokens of ``generate`` in float32 and in float64 would differ.
    """
    torch.manual_seed(0)
    if config in CAUSAL_SIZES:
        return random_llama(config, initializer_range=INIT_STD[config])
    lm = random_bart(config, init_std=INIT_STD[config])
    lm.lm_head.weight = nn.Parameter(torch.randn(lm.lm_head.weight.shape) * 0.15)
    return lm


def trained_model(run_dir: Path, batch: int) -> tuple[PreTrainedModel, Tensor, Tensor | None]:
    """A run's language model, and encoder states of latents that it samples, with their mask."""
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    sampled = pipe.sample(batch, num_inference_steps=SAMPLING_STEPS)
    with torch.no_grad():
        return pipe.autoencoder.lm, pipe.autoencoder.decode_states(sampled.latents), sampled.mask


def published(
    lm: PreTrainedModel, states: Tensor, mask: Tensor | None, config: DecodingConfig
) -> Callable[[str | None], Tensor]:
    """``generate`` as users call it, as a function of the cache's kind: None is the growing one."""
    options = generate._options(lm, config, config.max_length)
    if config.strategy == "nucleus":
        options.update(do_sample=True, top_p=config.top_p, top_k=0, temperature=config.temperature)
    inputs = generate._inputs(lm, states, mask, options)

    def run(cache: str | None) -> Tensor:
        options.cache_implementation = cache
        return lm.generate(**inputs, generation_config=options)

    return run


def baselines(
    lm: PreTrainedModel, states: Tensor, mask: Tensor | None, config: DecodingConfig
) -> dict[str, Callable[[], Tensor]]:
    """``generate`` with its growing cache, and with its static one where that runs."""
    run = published(lm, states, mask, config)
    found = {"generate": partial(run, None)}
    try:
        run("static")
        found["generate, static cache"] = partial(run, "static")
    except (RuntimeError, ValueError, TypeError) as error:
        print(f"generate with a static cache does not run: {error}".splitlines()[0])
    return found


def wanted_tokens(lm: PreTrainedModel, states: Tensor, mask: Tensor | None, config: DecodingConfig) -> Tensor:
    """The tokens that ``generate`` gives in float32, with our random numbers where tokens are drawn."""
    options = generate._options(lm, config, config.max_length)
    uniforms = None
    if config.strategy == "nucleus":
        uniforms = generate._uniforms(states, options.max_length, 0, None, 0)
    with torch.no_grad():
        return generate._generate(lm, states, mask, options, config, uniforms)


def agreement(ours: Tensor, wanted: Tensor) -> float:
    """Share of equal tokens, of the places that either has."""
    width = max(ours.shape[1], wanted.shape[1])
    ours, wanted = (nn.functional.pad(ids, (0, width - ids.shape[1]), value=-1) for ids in (ours, wanted))
    return (ours == wanted).float().mean().item()


def measure(
    lm,
    states,
    mask,
    config: DecodingConfig,
    dtypes: list[str],
    rounds: int,
    device: str,
    counts: GraphCounts,
) -> tuple[list[dict], list[str]]:
    """A row for ``generate`` and one for each dtype of ours, and what is wrong with their CUDA graphs."""
    runs = baselines(lm, states, mask, config)
    agreements, ours = dict.fromkeys(runs, None), {}
    names = dict.fromkeys(runs, "fp32")
    wanted = wanted_tokens(lm, states, mask, config)
    for dtype in dtypes:
        own = DecodingConfig(**(vars(config) | {"precision": dtype}))
        name = f"ours, {dtype}"
        run = partial(generate_ids, lm, states, own, config.max_length, mask=mask)
        runs[name] = ours[name] = CountedCall(run, counts)
        names[name], agreements[name] = dtype, agreement(runs[name](), wanted)
    seconds = {name: [] for name in runs}
    for _ in range(rounds):  # each has run once by now
        for name, run in runs.items():
            seconds[name].append(timed(run, device)[0])
    timings = {name: Timing.of(taken) for name, taken in seconds.items()}
    faults = []
    if device == "cuda":  # a batch's steps are captured anew as its cache grows and shrinks
        faults = [graph_fault(name, run.last, run.last.replays // 2, 1) for name, run in ours.items()]
    rows = [
        {
            "name": name,
            "strategy": config.strategy,
            "batch": len(states),
            "dtype": names[name],
            "sentences_per_s": len(states) / timing.median,
            "latency_s": timing.median,
            "latency_s_p20": timing.p20,
            "latency_s_p80": timing.p80,
            "speedup_vs_generate": timings["generate"].median / timing.median,
            "token_agreement": agreements[name],
            "graph_captures": ours[name].last.captures if name in ours else 0,
            "graph_replays": ours[name].last.replays if name in ours else 0,
        }
        for name, timing in timings.items()
    ]
    return rows, [f"{config.strategy}, batch {len(states)}, {fault}" for fault in faults if fault]


def earlier_rows(path: Path, facts: dict) -> list[dict]:
    """The rows of a file that was written under the same circumstances.

    Raises:
        ValueError: they were others.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    for name, value in facts.items():
        if found[name] != value:
            raise ValueError(
                f"{path} was measured with {name} {found[name]!r}, and this is {value!r}; choose another file"
            )
    return found["rows"]


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = list(dict.fromkeys((row["strategy"], row["batch"]) for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    figure, axes = pyplot.subplots(figsize=(2 + 1.5 * len(groups), 4), layout="constrained")
    for place, name in enumerate(names):
        found = {
            (row["strategy"], row["batch"]): row["speedup_vs_generate"] for row in rows if row["name"] == name
        }
        spots = [i + place * 0.8 / len(names) for i, group in enumerate(groups) if group in found]
        axes.bar(spots, [found[group] for group in groups if group in found], 0.8 / len(names), label=name)
    axes.set_xticks(
        [i + 0.3 for i in range(len(groups))], [f"{strategy}, {batch}" for strategy, batch in groups]
    )
    axes.set_xlabel("strategy, batch")
    axes.set_ylabel("times generate, fp32")
    figure.legend(loc="outside upper center", ncols=len(names))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", choices=[*SIZES, *CAUSAL_SIZES], default="bart-base")
    parser.add_argument("--run", type=Path, help="a trained run directory instead of random weights")
    add_device(parser)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 16, 128])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    add_precisions(parser, PRECISIONS, "default fp32 bf16 int8; on a GPU fp32 bf16")
    parser.add_argument("--max-length", type=int, default=64, help="tokens of a sentence, at most")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds")
    parser.add_argument("--json", type=Path, help="where to write the result; a plot comes beside it")
    parser.add_argument("--add", action="store_true", help="keep other strategies and batch sizes in FILE")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    dtypes = options.precisions or (["fp32", "bf16", "int8"] if device == "cpu" else ["fp32", "bf16"])
    facts = {"model": options.run.name if options.run else options.config, "max_length": options.max_length}
    facts |= {"device": describe_device(device), "versions": versions()}
    rows, errors = [], []
    if options.add and options.json and options.json.exists():
        try:
            rows = earlier_rows(options.json, facts)
        except ValueError as error:
            parser.error(str(error))
    for batch in options.batch_sizes:
        if options.run:
            lm, states, mask = trained_model(options.run, batch)
        else:
            lm, mask = random_model(options.config), None
            states = torch.randn(batch, LATENTS, lm.config.hidden_size)
        lm, states = lm.to(device), states.to(device)
        mask = None if mask is None else mask.to(device)
        for strategy in options.strategies:
            config = DecodingConfig(strategy, options.max_length)
            if not lm.config.is_encoder_decoder:
                length = options.max_length + 1  # with the start token
                config = replace(config, max_length=length, min_length=length, **NO_RULES)
            with counted_graphs() as counts:
                measured, faults = measure(lm, states, mask, config, dtypes, options.rounds, device, counts)
            errors += faults
            rows = [row for row in rows if (row["batch"], row["strategy"]) != (batch, strategy)] + measured
            for row in measured:
                print(
                    f"{strategy:8} batch {batch:4} {row['name']:24} {row['sentences_per_s']:9.2f} sentences/s "
                    f"{row['speedup_vs_generate']:6.2f} x  agreement {row['token_agreement']}",
                    flush=True,
                )
    if options.json:
        rows.sort(key=lambda row: (row["batch"], STRATEGIES.index(row["strategy"])))
        options.json.write_text(json.dumps(facts | {"rows": rows, "errors": errors}, indent=2) + "\n")
        if can_plot():
            plot(rows, options.json.with_suffix(".png"))
    if errors:
        raise SystemExit("\n".join(errors))


if __name__ == "__main__":
    main()
