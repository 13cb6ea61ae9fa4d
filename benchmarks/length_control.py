"""How near texts come to a length that is asked for, by selection and by guidance, and what that costs.

python benchmarks/length_control.py [RUN] --judge outputs/ablation/judge --json RESULT.json

RUN is a finished training, the model that ships where none is named. The judge of perplexity is a language model of
the same corpus, as recipe_ablation.py leaves it in its folder: figures compare rows of one table and nothing else.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from harness import describe_device, versions

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.perplexity import text_perplexities

WAYS = {  # name: (best_of, weight of the guide, if guided)
    "not controlled": (1, None),
    "the nearest of 4": (4, None),
    "guided, weight 1": (1, 1.0),
    "guided, weight 3": (1, 3.0),
    "guided, weight 3, the nearest of 4": (4, 3.0),
}


def measure(options: argparse.Namespace) -> dict:
    """Rows by length and way: the mean miss in tokens, perplexity, and the share of texts that differ."""
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    judge = ScoringModels().language_model(str(options.judge))
    guide = pipe.learn_length(seed=options.seed + 1)
    rows = []
    for length in options.lengths:
        for name, (best_of, weight) in WAYS.items():
            texts = pipe.of_length(
                options.samples,
                length,
                best_of=best_of,
                quality=options.quality,
                seed=options.seed,
                guide_scale=weight,
            ).texts
            miss = (pipe.token_counts(texts) - length).abs().mean().item()
            rows.append(
                {
                    "length": length,
                    "way": name,
                    "miss": miss,
                    "perplexity": float(text_perplexities([text for text in texts if text], judge).mean()),
                    "different": len(set(texts)) / len(texts),
                    "texts": texts[:4],
                }
            )
            print(f"{length:3} tokens, {name:36} miss {miss:5.2f}  perplexity {rows[-1]['perplexity']:5.2f}")
    return {"rows": rows, "guide_error": guide.facts["held_out"][-1]}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", help="run directory; default: the model that ships")
    parser.add_argument("--judge", type=Path, required=True, help="folder of the judge of perplexity")
    parser.add_argument("--lengths", type=int, nargs="+", default=[12, 20, 28, 36, 44])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--quality", default="balanced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)
    result = measure(options)
    print(f"The guide tells lengths within {result['guide_error']:.1f} tokens (root mean square).")
    if options.json:
        settings = {k: v for k, v in vars(options).items() if k not in ("json", "judge")}
        result |= {"settings": settings, "device": describe_device("cpu"), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
        print(options.json)


if __name__ == "__main__":
    main()
