"""Learns the guides of the model that ships from E2E's meanings: area, food, price, family, rating and name.

python scripts/learn_e2e_guides.py RUN --root FOLDER_OF_E2E [--texts 8000] [--samples 4000]

RUN is a copy of the model (`save_pretrained`), or its folder in a checkout. Six prices and six ratings of the corpus
are three of each, as its texts write them in words or as numbers.
"""

import argparse
import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.data.labelled import LabelledTexts
from ld4lg_fast.pipeline.text_guide import FOLDER, save_guides

SLOTS = {  # name of the guide: the slot, and what its values are called
    "area": ("area", {}),
    "family": ("familyFriendly", {}),
    "food": ("food", {}),
    "name": ("name", {}),
    "price": (
        "priceRange",
        {"less than £20": "cheap", "£20-25": "moderate", "more than £30": "high"},
    ),
    "rating": (
        "customer rating",
        {"1 out of 5": "low", "3 out of 5": "average", "5 out of 5": "high"},
    ),
}


def rows(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each text of E2E with the slots of its meaning."""
    with open(file, encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            found = re.findall(r"([^,\[\]]+)\[([^\]]*)\]", row["mr"])
            yield row["ref"], {slot.strip(): value.strip() for slot, value in found}


def labelled(file: Path, count: int) -> dict[str, LabelledTexts]:
    """``count`` texts from all over the file with the label of each guide; None where the meaning does not say."""
    every = list(rows(file))
    chosen = every[:: max(1, len(every) // count)][:count]
    found = {}
    for name, (slot, called) in SLOTS.items():
        values = [slots.get(slot) for _, slots in chosen]
        labels = [None if value is None else called.get(value, value) for value in values]
        found[name] = LabelledTexts([text for text, _ in chosen], labels)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", type=Path, required=True, help="folder with trainset.csv")
    parser.add_argument("--texts", type=int, default=8000, help="labelled texts")
    parser.add_argument("--samples", type=int, default=4000, help="texts of the model")
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args(arguments)
    pipe = TextDiffusionPipeline.from_pretrained(options.run)
    learned = pipe.learn_guides(
        labelled(options.root / "trainset.csv", options.texts), options.samples, seed=options.seed
    )
    pipe.learn_length(num_samples=options.samples, seed=options.seed)
    with fingerprint.renewed(options.run):
        save_guides(pipe.text_guides, options.run / FOLDER)
    for name, guide in learned.items():
        by_level = ", ".join(f"{share:.2f}" for share in guide.facts["held_out"])
        print(f"{name}: words {guide.facts['held_out_words']:.2f}; samples, from noise to data: {by_level}")


if __name__ == "__main__":
    main()
