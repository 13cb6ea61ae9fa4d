"""Labels of E2E's texts from their meaning representations, as its guides learn from.

Six prices and six ratings of the corpus are three of each, as its texts write them in words or as numbers.
"""

import re
from pathlib import Path

from ld4lg_fast.data.formats import read_table
from ld4lg_fast.data.labelled import LabelledTexts

PRICES = {"less than £20": "cheap", "£20-25": "moderate", "more than £30": "high"}
RATINGS = {"1 out of 5": "low", "3 out of 5": "average", "5 out of 5": "high"}
SLOTS: dict[str, tuple[str, dict[str, str]]] = {  # label: the slot, and what its values are called
    "area": ("area", {}),
    "family": ("familyFriendly", {}),
    "food": ("food", {}),
    "name": ("name", {}),
    "price": ("priceRange", PRICES),
    "rating": ("customer rating", RATINGS),
}


def read_meanings(file: Path, count: int) -> dict[str, LabelledTexts]:
    """``count`` texts from all over a file of E2E (columns ``mr`` and ``ref``) by label; None where it does not say.

    Raises:
        DataError: the file cannot be read.
    """
    rows = read_table(file).rows
    chosen = rows[:: max(1, len(rows) // count)][:count]
    texts = [str(row["ref"]) for row in chosen]
    meanings = [dict(re.findall(r"([^,\[\]]+)\[([^\]]*)\]", str(row["mr"]))) for row in chosen]
    slots = [{slot.strip(): value.strip() for slot, value in meaning.items()} for meaning in meanings]
    found = {}
    for label, (slot, called) in SLOTS.items():
        values = [meaning.get(slot) for meaning in slots]
        found[label] = LabelledTexts(
            texts, [None if value is None else called.get(value, value) for value in values]
        )
    return found
