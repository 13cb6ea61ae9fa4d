"""Learns the guides of the model that ships from E2E's meanings: area, food, price, family, rating and name.

python scripts/learn_e2e_guides.py RUN --root FOLDER_OF_E2E [--texts 8000] [--samples 4000]

RUN is a copy of the model (`save_pretrained`), or its folder in a checkout.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.data.e2e_meanings import read_meanings
from ld4lg_fast.pipeline.text_guide import FOLDER, save_guides


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="folder with trainset.csv")
    parser.add_argument("--texts", type=int, default=8000, help="labelled texts")
    parser.add_argument("--samples", type=int, default=4000, help="texts of the model")
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args(arguments)
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    how = {"seed": options.seed, "decoding": pipe.decoding}
    data = read_meanings(options.root / "trainset.csv", options.texts)
    learned = pipe.learn_guides(data, options.samples, **how)
    pipe.learn_length(num_samples=options.samples // 4, **how)
    with fingerprint.renewed(options.run):
        save_guides(pipe.text_guides, options.run / FOLDER)
    for name, guide in learned.items():
        by_level = ", ".join(f"{share:.2f}" for share in guide.facts["held_out"])
        print(f"{name}: words {guide.facts['held_out_words']:.2f}; samples, from noise to data: {by_level}")


if __name__ == "__main__":
    main()
