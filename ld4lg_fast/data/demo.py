"""The demo corpus: restaurant descriptions from a small grammar, available without files.

A text expresses some of the eight slots that E2E's meaning representations hold (name, eatType, food, priceRange,
customer rating, area, familyFriendly, near), each at most once, in one or two sentences of 8 to 30 words: the first
sentence follows a pattern, and the second one expresses the remaining slots.
"""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from ld4lg_fast.data.corpus import TextDataset, TextSplit
from ld4lg_fast.errors import ConfigError

MIN_WORDS, MAX_WORDS = 8, 30
MOST_TEXTS = 200_000

NAMES = (
    *("The Copper Kettle", "The Old Mill", "The Red Lantern", "The Anchor", "The Silver Spoon"),
    *("The Blue Door", "The Quiet Corner", "The Golden Goose", "The Walled Garden", "The Lighthouse"),
    *("The Olive Tree", "The Corner House", "Juniper", "Saffron", "Rosewood", "Bella Luna", "Willow House"),
    *("Pepper Lane", "Harbour View", "Clover", "Marigold", "Green Apple", "Sunrise", "Nightingale"),
)
EAT_TYPES = ("restaurant", "pub", "coffee shop")
FOODS = ("Chinese", "English", "French", "Indian", "Italian", "Japanese", "Mexican")
LANDMARKS = (
    *("the train station", "the town hall", "the Grand Hotel", "the old theatre", "the market square"),
    *("the city library", "the cathedral", "the football stadium", "the botanical garden"),
)
NEAR = ("near", "close to", "next to", "not far from")
AREAS = {"city centre": ("in the city centre", "in the centre of town"), "riverside": ("by the river",)}


class _Wording(NamedTuple):
    """Wordings of a slot's value before a noun, after it, and as a predicate; and whether it is positive."""

    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]
    verbs: tuple[str, ...]
    good: bool


PRICES = (
    _Wording(("cheap", "affordable"), ("low prices",), ("has low prices", "charges less than £20"), True),
    _Wording(("moderately priced",), ("fair prices",), ("has moderate prices", "charges about £25"), True),
    _Wording(("expensive",), ("high prices",), ("has high prices", "charges more than £30"), False),
)
RATINGS = (
    _Wording(
        ("highly rated",),
        ("a high customer rating", "a customer rating of 5 out of 5"),
        ("has a high customer rating", "is rated 5 out of 5 by its customers"),
        True,
    ),
    _Wording(
        (),
        ("an average customer rating", "a customer rating of 3 out of 5"),
        ("has an average customer rating", "is rated 3 out of 5 by its customers"),
        True,
    ),
    _Wording(
        ("poorly rated",),
        ("a low customer rating", "a customer rating of 1 out of 5"),
        ("has a low customer rating", "is rated 1 out of 5 by its customers"),
        False,
    ),
)
FAMILY = (
    _Wording(("family-friendly",), (), ("is family-friendly", "welcomes families with children"), True),
    _Wording((), (), ("is not family-friendly", "does not welcome children"), False),
)


T = TypeVar("T")


class _Meaning:
    """The slots of one text; a slot is set to None once a sentence has expressed it."""

    def __init__(self, rng: random.Random) -> None:
        def maybe(share: float, values: Sequence[T]) -> T | None:
            return rng.choice(values) if rng.random() < share else None

        self.rng = rng
        self.name, self.eat_type = rng.choice(NAMES), rng.choice(EAT_TYPES)
        self.food = maybe(0.75, FOODS)
        self.price, self.rating, self.family = maybe(0.6, PRICES), maybe(0.55, RATINGS), maybe(0.5, FAMILY)
        self.area, self.landmark = maybe(0.55, tuple(AREAS)), maybe(0.5, LANDMARKS)

    def place(self) -> str:
        """The location as an adverbial, or an empty string."""
        words = []
        if self.area:
            words.append(self.rng.choice(AREAS[self.area]))
        if self.landmark:
            words.append(f"{self.rng.choice(NEAR)} {self.landmark}")
        self.area = self.landmark = None
        return " ".join(words)

    def noun(self) -> str:
        """The kind of place with article and randomly chosen adjectives."""
        adjectives: list[str] = []
        for slot in self.rng.sample(("price", "rating", "family"), 3):
            wording = getattr(self, slot)
            if wording and wording.adjectives and len(adjectives) < 2 and self.rng.random() < 0.6:
                adjectives.append(self.rng.choice(wording.adjectives))
                setattr(self, slot, None)
        words = [", ".join(adjectives)] if adjectives else []
        if self.food and self.rng.random() < 0.8:
            words.append(self.food)
            self.food = None
        phrase = " ".join([*words, self.eat_type])
        return f"{'an' if phrase[0] in 'AEIOUaeiou' else 'a'} {phrase}"

    def rest(self) -> str:
        """The remaining slots as one predicate, or an empty string."""
        verbs: list[tuple[str, bool]] = []
        if self.food:
            verbs.append((f"serves {self.food} food", True))
        verbs += [(self.rng.choice(w.verbs), w.good) for w in (self.price, self.rating, self.family) if w]
        self.rng.shuffle(verbs)
        if place := self.place():
            verbs.insert(0, (f"is {place}", True))
        if len(verbs) == 2:
            (first, one), (second, other) = verbs
            return f"{first} {'and' if one == other else 'but'} {second}"
        said = [verb for verb, _ in verbs]
        return f"{', '.join(said[:-1])} and {said[-1]}" if len(said) > 1 else "".join(said)


def _is(m: _Meaning) -> str:
    return f"{m.name} is {m.noun()} {m.place()}"


def _has(m: _Meaning) -> str:
    phrase = m.rng.choice(m.rating.phrases)  # type: ignore[union-attr]  # chosen with a rating alone
    m.rating = None
    return f"{m.name} is {m.noun()} with {phrase} {m.place()}"


def _serves(m: _Meaning) -> str:
    food, m.food = m.food, None
    return f"{m.name} is {m.noun()} that serves {food} food {m.place()}"


def _there_is(m: _Meaning) -> str:
    return f"there is {m.noun()} called {m.name} {m.place()}"


def _place_first(m: _Meaning) -> str:
    place = m.place()
    return f"{place}, there is {m.noun()} called {m.name}"


def _located(m: _Meaning) -> str:
    place = m.place()
    return f"located {place}, {m.name} is {m.noun()}"


def _if_you_like(m: _Meaning) -> str:
    food, m.food = m.food, None
    return f"if you like {food} food, try {m.name}, {m.noun()} {m.place()}"


def _prices(m: _Meaning) -> str:
    food, m.food = m.food, None
    prices = m.rng.choice(m.price.phrases)  # type: ignore[union-attr]  # chosen with a price alone
    m.price = None
    return f"{m.name} is {m.noun()} that offers {food} food at {prices} {m.place()}"


_PATTERNS: tuple[tuple[Callable[[_Meaning], str], Callable[[_Meaning], object]], ...] = (
    (_is, lambda m: True),
    (_there_is, lambda m: True),
    (_has, lambda m: m.rating),
    (_serves, lambda m: m.food),
    (_place_first, lambda m: m.area or m.landmark),
    (_located, lambda m: m.area or m.landmark),
    (_if_you_like, lambda m: m.food),
    (_prices, lambda m: m.food and m.price),
)


def _text(rng: random.Random) -> str:
    meaning = _Meaning(rng)
    pattern = rng.choice([pattern for pattern, fits in _PATTERNS if fits(meaning)])
    first = " ".join(pattern(meaning).split())
    text = f"{first[0].upper()}{first[1:]}."
    if rest := meaning.rest():
        text += f" {rng.choice(('It', 'The place', f'This {meaning.eat_type}'))} {rest}."
    return text


def generate_demo_texts(num_texts: int, seed: int = 0) -> list[str]:
    """``num_texts`` distinct descriptions; fewer texts from the same seed are a prefix of more.

    Raises:
        ConfigError: more texts than the grammar can produce in reasonable time.
    """
    if not 0 < num_texts <= MOST_TEXTS:
        raise ConfigError(f"the demo grammar cannot give {num_texts} texts: ask for 1 to {MOST_TEXTS}")
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < num_texts:
        text = _text(rng)
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            texts[text] = None
    return list(texts)


def demo_dataset(seed: int = 42, train: int = 8000, validation: int = 500, test: int = 500) -> TextDataset:
    """The corpus with disjoint splits of the given sizes; the held-out splits do not depend on ``train``."""
    texts = generate_demo_texts(validation + test + train, seed)
    held_out = validation + test
    return TextDataset(
        "demo",
        train=TextSplit(texts[held_out:]),
        validation=TextSplit(texts[:validation]),
        test=TextSplit(texts[validation:held_out]),
        class_names=None,
        origin=f"the demo grammar with seed {seed}",
    )
