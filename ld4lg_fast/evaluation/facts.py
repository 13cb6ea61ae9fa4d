"""Facts kept: whether a continuation says the same of a place as its prompt does, for the corpora about restaurants.

For name, food, area and price: of the continuations that mention one where the prompt does too, the share that mentions
no other.
"""

import re
from collections.abc import Mapping, Sequence

SLOTS: Mapping[str, Mapping[str, str]] = {
    "food": {
        food: rf"\b{food}\b"
        for food in ("Chinese", "English", "Fast food", "French", "Indian", "Italian", "Japanese", "Mexican")
    },
    "area": {"city centre": r"\bcent(?:re|er)\b", "riverside": r"\briver(?:side)?\b"},
    "price": {
        "low": r"\bcheap\b|\baffordable\b|\blow[- ]price|\bprices? (?:range )?(?:are|is) low|less than £20"
        r"|\binexpensive\b",
        "moderate": r"\bmoderate|\breasonabl[ey] priced|\baverage price|about £25|£20-25",
        "high": r"(?<!in)\bexpensive\b|\bhigh[- ]price|\bprices? (?:range )?(?:are|is) high|more than £30",
    },
}


def mentioned(text: str, values: Mapping[str, str]) -> set[str]:
    """The values of a slot that a text mentions; ``values`` have their patterns."""
    return {value for value, pattern in values.items() if re.search(pattern, text, re.IGNORECASE)}


def facts_kept(
    prompts: Sequence[str], continuations: Sequence[str], names: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    """By slot, and of all together as ``all``: ``share`` in [0, 1] and the ``count`` of pairs that it is of.

    Args:
        names: of the places that the corpus knows.
    """
    # The longest first, and each place once: The Old Mill is no Old Mill besides.
    slots = {"name": {name: rf"(?<!\w){re.escape(name)}(?!\w)" for name in names}, **SLOTS}
    kept = dict.fromkeys(slots, 0)
    count = dict.fromkeys(slots, 0)
    for prompt, continuation in zip(prompts, continuations, strict=True):
        for slot, values in slots.items():
            known, said = mentioned(prompt, values), mentioned(continuation, values)
            if known and said:
                count[slot] += 1
                kept[slot] += said <= known
    kept["all"], count["all"] = sum(kept.values()), sum(count.values())
    return {
        slot: {"share": kept[slot] / count[slot] if count[slot] else 0.0, "count": count[slot]}
        for slot in kept
    }
