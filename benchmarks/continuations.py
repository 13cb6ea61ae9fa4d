"""Prompts gone on with: recipe ``blocks`` against an autoregressive model and against sequence-to-sequence v2.

python benchmarks/continuations.py --dataset demo --minutes 20 --out outputs/continuations
    [--systems blocks autoregressive seq2seq] [--train OVERRIDE ...]
    [--json benchmarks/results/continuations_demo_small_cpu_avx512.json]

Every system is trained on the same documents for the same minutes, one after the other, with ``model=small`` for ours
and a GPT-2 with as many parameters; what is trained already in --out is not trained again. Held-out documents are cut
in two (evaluation/continuations.py): their first sentences are the prompts.

* Quality: MAUVE of what follows against what really follows, diversity, ROUGE-L, perplexity given the prompt under a
  small language model of the corpus that is none of the systems, and the share of 4-grams that a text has had before;
  by --top-p, so that systems can be compared at equal diversity. The means of --seeds with 95 % intervals.
* Facts kept (demo, e2e): of the continuations that mention a name, food, area or price where their prompt does, the
  share that mentions no other (evaluation/facts.py); beside it the same with the prompts exchanged at random.
* Speed (--speed): tokens a second of --speed-batch prompts with --speed-tokens tokens each, ours with the preset
  ``draft`` and the autoregressive model with its key/value cache, each in the best precision that the CPU has, in
  turns; and seconds of the 2nd and of the 10th block.
"""

import argparse
import csv
import json
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from harness import ROOT, Timing, available_precisions, describe_device, versions

from benchmarks.continuation_systems import (
    Autoregressive,
    Blocks,
    Seq2Seq,
    System,
    run_training,
    write_pairs,
)
from benchmarks.text_quality import SCORING_SEED, corpus_scoring_model, sentence_model
from ld4lg_fast.data import TextDataset, load_text_dataset
from ld4lg_fast.data.demo import NAMES
from ld4lg_fast.data.sources import SEARCHED
from ld4lg_fast.evaluation import EvaluationSettings
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.confidence import summary
from ld4lg_fast.evaluation.continuations import evaluate_continuations, prompt_and_rest, repetition, shortened
from ld4lg_fast.evaluation.facts import facts_kept
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.report import versions as metric_versions
from ld4lg_fast.pipeline.documents import BlockCoder

SYSTEMS = ("blocks", "autoregressive", "seq2seq")
POSITIONS = {"demo": 256, "e2e": 512, "roc": 128, "movie_reviews": 512}  # of the autoregressive model
MAX_LEN = {"roc": 32}  # tokens of a block, so that a story has two or three; elsewhere 64
FALLBACK = {"roc": "test"}  # where training documents come from if the folder has no training file
SOURCE_TOKENS = 128
JUDGE_STEPS = 1000


def names_of(dataset: str) -> list[str]:
    """Names of the places that a corpus knows."""
    if dataset == "demo":
        return list(NAMES)
    found: set[str] = set()
    for root in SEARCHED:
        for path in (ROOT / root).glob("e2e/*set*.csv"):
            with path.open(encoding="utf-8") as file:
                found.update(
                    name for row in csv.DictReader(file) for name in re.findall(r"name\[(.*?)\]", row["mr"])
                )
    return sorted(found)


def built(name: str, dataset: TextDataset, options: argparse.Namespace) -> System:
    """A trained system."""
    run = options.out / "blocks"
    blocks = f"dataset.max_len={MAX_LEN.get(options.dataset, 64)}"
    overrides = [
        f"dataset={options.dataset}",
        "dataset.documents=true",
        "recipe=blocks",
        "model=small",
        blocks,
    ]
    run_training(run, options.minutes, *overrides, *options.train)
    ours = Blocks(run, options.quality)
    if name == "blocks":
        return ours
    if name == "autoregressive":
        folder = options.out / "autoregressive"
        return Autoregressive(folder, dataset, ours, options.minutes, POSITIONS[options.dataset])
    pairs = write_pairs(options.out / "pairs", dataset, ours, SOURCE_TOKENS)
    overrides = ["dataset=custom", f"dataset.root={pairs}", "dataset.source_column=source", "recipe=v2"]
    overrides += [f"dataset.source_max_len={SOURCE_TOKENS + 2}", "model=small-seq2seq", blocks]
    run_training(options.out / "seq2seq", options.minutes, *overrides)
    return Seq2Seq(options.out / "seq2seq", options.quality, SOURCE_TOKENS)


def facts(prompts: Sequence[str], texts: Sequence[str], names: Sequence[str]) -> dict:
    """Facts kept, and with the prompts exchanged."""
    exchanged = list(prompts)
    random.Random(0).shuffle(exchanged)
    return {"kept": facts_kept(prompts, texts, names), "exchanged": facts_kept(exchanged, texts, names)}


def measured(
    system: System, prompts: Sequence[str], rests: Sequence[str], training: Sequence[str], shared: dict,
    options: argparse.Namespace, top_p: float
) -> dict:  # fmt: skip
    """A row of the table: a system's continuations of all prompts."""
    found, first, kept, seconds = [], [], [], 0.0
    names = names_of(options.dataset) if options.dataset in ("demo", "e2e") else []
    for seed in options.seeds:
        start = time.perf_counter()
        texts = system.write(prompts, options.max_new_tokens, seed, top_p)
        seconds += time.perf_counter() - start
        found.append(evaluate_continuations(texts, rests, training, prompts=prompts, **shared))
        first = first or texts
        if names:
            kept.append(facts(prompts, texts, names))
    metrics = [name for name in found[0]["metrics"] if all(name in each["metrics"] for each in found)]
    row = {
        "top_p": top_p,
        "quality": {name: summary([each["metrics"][name] for each in found]) for name in metrics},
        "empty_texts": sum(each["empty_texts"] for each in found),
        "skipped": found[0]["skipped"],
        "seconds": seconds / len(options.seeds),
        "repetition_by_length": by_length(first),
        "texts": [{"prompt": prompts[i], "continuation": first[i]} for i in range(min(16, len(first)))],
    }
    if kept:
        row["facts_kept"] = {
            kind: {
                slot: summary([each[kind][slot]["share"] for each in kept])
                | {"count": kept[0][kind][slot]["count"]}
                for slot in kept[0][kind]
            }
            for kind in ("kept", "exchanged")
        }
    return row


def by_length(texts: Sequence[str]) -> dict[str, float]:
    """Repeated 4-grams of the first so many words of the texts that are as long."""
    found = {}
    for count in (25, 50, 100, 200):
        long = [" ".join(text.split()[:count]) for text in texts if len(text.split()) >= count]
        if long:
            found[str(count)] = repetition(long)
    return found


def speeds(
    ours: Blocks, folder: Path, dataset: TextDataset, prompts: Sequence[str], options: argparse.Namespace
) -> dict:
    """Tokens a second in turns, each system in its best precision."""
    chosen = list(prompts[: options.speed_batch])
    rivals: dict[str, System] = {}
    for precision in ["fp32", *available_precisions("cpu")]:
        if precision in ("fp32", "bf16"):
            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
            rivals[f"autoregressive, {precision}"] = Autoregressive(
                folder, dataset, ours, 0, POSITIONS[options.dataset], dtype, len(chosen)
            )
        rivals[f"blocks, {precision}"] = Blocks(options.out / "blocks", "draft", precision, len(chosen))
    tokenizer = ours.pipe.autoencoder.tokenizer
    rates: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(options.speed_rounds + 1):
        for name, system in rivals.items():
            start = time.perf_counter()
            texts = system.write(chosen, options.speed_tokens, turn, 0.9)
            seconds = time.perf_counter() - start
            count = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
            if turn:  # the first packs weights
                rates[name].append(count / seconds)
    return {name: vars(Timing.of(found)) for name, found in rates.items()} | {
        "blocks_seconds": of_blocks(ours, chosen)
    }


def of_blocks(ours: Blocks, prompts: Sequence[str], count: int = 10) -> list[float]:
    """Seconds of the 1st to the ``count``-th block of documents that do not end, the median of five."""
    coder = BlockCoder(ours.pipe.autoencoder, ours.pipe.model.recipe["prefix_tokens"])
    times: list[list[float]] = [[] for _ in range(count)]
    text = "".join(prompts)
    for _ in range(5):
        for place in range(count):
            blocks = coder.writer.begin(text).blocks[: place + 1]
            prompt = ["".join(blocks)] * len(prompts)
            start = time.perf_counter()
            next(iter(ours.pipe.stream(prompt=prompt, max_new_tokens=1, quality="draft")))
            times[place].append(time.perf_counter() - start)
    return [sorted(each)[len(each) // 2] for each in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", choices=POSITIONS, default="demo")
    parser.add_argument("--minutes", type=float, default=20, help="of each system's training")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--train", nargs="*", default=[], metavar="OVERRIDE", help="options of our training")
    parser.add_argument("--out", type=Path, required=True, help="folder of what is trained")
    parser.add_argument("--samples", type=int, default=500, help="prompts")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--quality", default="balanced", help="preset of the diffusion models")
    parser.add_argument("--top-p", type=float, nargs="+", default=[0.7, 0.9, 1.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--judge-steps", type=int, default=JUDGE_STEPS)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--speed-batch", type=int, default=16)
    parser.add_argument("--speed-tokens", type=int, default=400)
    parser.add_argument("--speed-rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    dataset = load_text_dataset(options.dataset, documents=True, train_fallback=FALLBACK.get(options.dataset))
    systems = {name: built(name, dataset, options) for name in options.systems}
    ours = built("blocks", dataset, options)
    coder = BlockCoder(ours.pipe.autoencoder, ours.pipe.model.recipe["prefix_tokens"])
    pairs = [prompt_and_rest(document, coder.writer) for document in dataset.test.texts]
    pairs = [(prompt, rest) for prompt, rest in pairs if rest.strip()][: options.samples]
    prompts = [prompt for prompt, _ in pairs]
    rests = [shortened(rest, coder.writer, options.max_new_tokens) for _, rest in pairs]
    judge = corpus_scoring_model(options.out / "scoring_model", dataset.train.texts, options.judge_steps)
    settings = EvaluationSettings(
        mauve_model=judge, perplexity_model=judge, sentence_model=sentence_model(), bertscore_model=None
    )
    shared = {"settings": settings, "models": ScoringModels(), "cache": ArrayCache(options.out / "cache")}
    rows = []
    for name, system in systems.items():
        for top_p in options.top_p:
            rows.append({"name": name, "parameters": system.num_parameters})
            rows[-1] |= measured(system, prompts, rests, dataset.train.texts, shared, options, top_p)
            means = {metric: f"{each['mean']:.3g}" for metric, each in rows[-1]["quality"].items()}
            print(name, top_p, means, file=sys.stderr, flush=True)
    result = {
        "rows": rows,
        "real": evaluate_continuations(rests, rests, dataset.train.texts, prompts=prompts, **shared),
        "settings": {name: str(value) for name, value in vars(options).items() if name != "json"},
        "scoring_seed": SCORING_SEED,
        "device": describe_device("cpu"),
        "versions": metric_versions() | versions(),
    }
    if options.dataset in ("demo", "e2e"):
        result["real_facts"] = facts(prompts, rests, names_of(options.dataset))
    if options.speed:
        result["speed"] = speeds(ours, options.out / "autoregressive", dataset, prompts, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({row["name"] + f" {row['top_p']}": row.get("facts_kept", {}) for row in rows}))


if __name__ == "__main__":
    main()
