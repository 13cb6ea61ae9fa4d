"""How well guides lead the model that ships, alone and in pairs, and what that costs in fluency, variety and time.

python benchmarks/guides.py --root FOLDER_OF_E2E --judge FOLDER [--texts 1000] [--json RESULT.json]

Attributes are read from the texts by the corpus's own values (`e2e_slots`), which the guides have not seen. Weights are
chosen on the texts of another seed. The judge of perplexity is a language model of the same corpus, as
recipe_ablation.py leaves it in its folder: figures compare rows of one table and nothing else.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from e2e_slots import VALUES, has
from harness import describe_device, versions

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data.e2e_meanings import read_meanings
from ld4lg_fast.evaluation import ngrams
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.perplexity import text_perplexities

SLOT_OF = {"food": "food", "area": "area", "price": "priceRange", "family": "familyFriendly"}
PAIRS = (("food", "area"), ("food", "family"), ("price", "area"), ("price", "family"))
FEW = 100  # labelled texts
BATCH, REPEATS = 64, 9  # of the timing

Targets = Mapping[str, Sequence[str]]


def targets_of(names: Sequence[str], count: int) -> dict[str, list[str]]:
    """Values of guides for ``count`` texts, every combination as often as any other."""
    values = {name: list(VALUES[SLOT_OF[name]]) for name in names}
    found: dict[str, list[str]] = {name: [] for name in names}
    for number in range(count):
        for name in names:
            found[name].append(values[name][number % len(values[name])])
            number //= len(values[name])
    return found


def hits(texts: Sequence[str], targets: Targets) -> list[bool]:
    """Which texts have all of their attributes, and no other value of these slots."""
    return [
        all(has(text, SLOT_OF[name], values[row]) for name, values in targets.items())
        for row, text in enumerate(texts)
    ]


def share(texts: Sequence[str], targets: Targets) -> float:
    return statistics.fmean(hits(texts, targets))


class Guided:
    """Texts of a pipeline under guides."""

    def __init__(self, pipe: TextDiffusionPipeline, best_of: int, quality: str) -> None:
        self.pipe, self.best_of, self.quality = pipe, best_of, quality

    def texts(self, names: Sequence[str], weight: float, count: int, seed: int) -> tuple[list[str], Targets]:
        """``count`` texts and their targets; of ``best_of`` times as many the best of each target are kept."""
        every = targets_of(names, count)
        combinations = sorted(set(zip(*every.values(), strict=True)))
        texts: list[str] = []
        targets: dict[str, list[str]] = {name: [] for name in names}
        for number, values in enumerate(combinations):
            own = sum(row == values for row in zip(*every.values(), strict=True))
            given = dict(zip(names, values, strict=True))
            scales = dict.fromkeys(names, weight)
            options = {"quality": self.quality, "seed": seed + number}
            output = self.pipe(own, guides=given, guide_scales=scales, best_of=self.best_of, **options)
            texts += output.texts
            for name, value in given.items():
                targets[name] += [value] * own
        return texts, targets

    def best_weight(self, names: Sequence[str], weights: Sequence[float], count: int, seed: int) -> float:
        """The smallest weight whose share of attributes is within 0.01 of the highest."""
        shares = {weight: share(*self.texts(names, weight, count, seed)) for weight in weights}
        return min(weight for weight in weights if shares[weight] >= max(shares.values()) - 0.01)


def fluency(
    perplexities: Callable[[Sequence[str]], Sequence[float]] | None, texts: Sequence[str]
) -> dict[str, float]:
    """Diversity over words, and the mean perplexity if there is a judge."""
    known = [text for text in texts if text.strip()]
    found = {"diversity": ngrams.diversity([text.lower().split() for text in known])}
    if perplexities is not None:
        found["perplexity"] = float(statistics.fmean(map(float, perplexities(known))))
    return found


def against_unguided(
    texts: Sequence[str], targets: Targets, unguided: Sequence[str], measure: Callable[[Sequence[str]], dict]
) -> dict:
    """Fluency of the guided texts and of as many unguided ones that have the same attributes, in means over them."""
    pairs = []
    for values in sorted(set(zip(*targets.values(), strict=True))):
        chosen = dict(zip(targets, ([value] for value in values), strict=True))
        own = [
            text
            for text, row in zip(texts, zip(*targets.values(), strict=True), strict=True)
            if row == values
        ]
        free = [text for text in unguided if hits([text], chosen)[0]]
        count = min(len(own), len(free))
        if count >= 20:
            pairs.append((measure(own[:count]), measure(free[:count])))
    if not pairs:
        return {}
    return {
        kind: {name: statistics.fmean(pair[side][name] for pair in pairs) for name in pairs[0][0]}
        for side, kind in enumerate(("guided", "unguided"))
    } | {"compared_attributes": len(pairs)}


def step_cost(pipe: TextDiffusionPipeline) -> dict:
    """Seconds of a draft of one batch without and with two guides, measured in turns, and their ratio."""
    ways = {"without": {}, "with two guides": {"guides": {"food": "Italian", "family": "no"}}}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 1):
        for name, options in ways.items():
            start = time.perf_counter()
            pipe.sample(BATCH, quality="draft", seed=repeat, **options)
            if repeat:  # the first packs the weights
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {"seconds": medians, "ratio": medians["with two guides"] / medians["without"]}


def few_labels(options: argparse.Namespace) -> TextDiffusionPipeline:
    """The model with guides from `FEW` labelled texts."""
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    known = read_meanings(options.root / "trainset.csv", FEW)
    pipe.learn_guides(
        {name: known[name] for name in SLOT_OF}, decoding=pipe.decoding, seed=options.seed + 3000
    )
    return pipe


def measure(options: argparse.Namespace) -> dict:
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    judge = None if options.judge is None else ScoringModels().language_model(str(options.judge))
    perplexities = None if judge is None else partial(text_perplexities, scorer=judge)
    score = partial(fluency, perplexities)
    free = {"quality": options.quality, "seed": options.seed + 2000}
    pools = {each: pipe(4 * options.texts, best_of=each, **free).texts for each in options.best_of}
    rows = []
    sources = {"all labels": pipe, f"{FEW} labels": few_labels(options)}
    for labels, source in sources.items():
        singles = [(name,) for name in SLOT_OF]
        for names in (*singles, *PAIRS) if source is pipe else singles:
            for best_of in options.best_of:
                guided = Guided(source, best_of, options.quality)
                weight = guided.best_weight(names, options.weights, options.texts // 4, options.seed + 1000)
                texts, targets = guided.texts(names, weight, options.texts, options.seed)
                unguided = pools[best_of]
                row = {"guides": names, "labels": labels, "best_of": best_of, "weight": weight}
                row |= {"share": share(texts, targets), "base_rate": share(unguided[: len(texts)], targets)}
                row |= against_unguided(texts, targets, unguided, score) | {"texts": texts[:8]}
                rows.append(row)
                print(
                    f"{' + '.join(names):16} {labels:10} best of {best_of}, weight {weight:4g}: {row['share']:.3f} "
                    f"(base rate {row['base_rate']:.3f})  {row.get('guided')} {row.get('unguided')}",
                    flush=True,
                )
    return {"rows": rows, "step": step_cost(pipe)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="run directory; default: the model that ships")
    parser.add_argument("--root", type=Path, required=True, help="folder of E2E, with trainset.csv")
    parser.add_argument(
        "--judge", type=Path, help="folder of the judge of perplexity; without it there is none"
    )
    parser.add_argument("--texts", type=int, default=1000, help="of each row")
    parser.add_argument("--best-of", type=int, nargs="+", default=[1, 4])
    parser.add_argument(
        "--weights", type=float, nargs="+", default=[1, 2, 4, 8, 16, 32], help="to choose from"
    )
    parser.add_argument("--quality", default="draft")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    result = measure(options)
    print(f"A step with two guides takes {result['step']['ratio']:.3f} of the time of one without.")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k not in ("json", "judge", "root")}
        result |= {"settings": settings, "device": describe_device("cpu"), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(options.json)


if __name__ == "__main__":
    main()
