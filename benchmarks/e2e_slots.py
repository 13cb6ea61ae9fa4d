"""Slots of E2E's meaning representations, read from texts by the corpus's own values.

Prices are three, as the texts write a price in words ("cheap") or as a number ("less than £20").
"""

import re
from collections.abc import Mapping

PRICES = {
    "cheap": r"\bcheap|inexpensive|\blow(?:er)?[- ](?:pric|cost)|affordable"
    r"|(?:less|lower|cheaper) th[ae]n (?:£ ?)?20|(?:under|below|up to) (?:£ ?)?20\b",
    "moderate": r"moderate|(?:average|mid|medium|fair)(?:ly)?[- ](?:pric|rang|cost)|reasonabl[ey]"
    r"|(?:£ ?)?20 ?(?:-|–|to|and) ?(?:£ ?)?25",
    "high": r"\bhigh(?:er|ly|-end)?[- ](?:pric|cost)|(?<!in)expensive|pricey|upscale|pric\w*[^.,]{0,12} high\b"
    r"|(?:more|higher|greater) than (?:£ ?)?30|(?:over|above|from|starts? at) (?:£ ?)?30",
}
NO_FAMILIES = (
    r"(?:\bno|\bnot|n't|\bnon|never|unfriendly|un)\b[^.,]{0,40}?(?:famil|kid|child)"
    r"|adults?[ -]only|only adults"
    r"|(?:famil|kid|child)\w*[^.,]{0,12}(?:unfriendly|not allowed|not welcome|is not|are not)"
    r"|un(?:family|kid|child)|no[nt][- ](?:family|kid|child)|adult (?:restaurant|establishment|venue|pub)"
)
VALUES: Mapping[str, Mapping[str, str]] = {
    "food": {
        "Chinese": "chinese",
        "English": r"\benglish|british",
        "Fast food": "fast[- ]food",
        "French": "french",
        "Indian": r"\bindian",
        "Italian": "italian",
        "Japanese": "japanese|sushi",
    },
    "area": {
        "city centre": r"cit(?:y|y's) cent(?:re|er)|cent(?:re|er) of (?:the )?(?:city|town)|town cent",
        "riverside": "river",
    },
    "priceRange": PRICES,
    "familyFriendly": {"yes": "famil|kid|child", "no": NO_FAMILIES},
}


def slots(text: str) -> dict[str, set[str]]:
    """Values of each slot of `VALUES` that a text mentions."""
    lower = text.lower().replace("raja indian cuisine", "")
    found = {
        slot: {value for value, pattern in values.items() if re.search(pattern, lower)}
        for slot, values in VALUES.items()
    }
    if "no" in found["familyFriendly"]:
        found["familyFriendly"] = {"no"}
    return found


def has(text: str, slot: str, value: str) -> bool:
    """Whether a text mentions this value of a slot and no other."""
    return slots(text)[slot] == {value}
