"""Documents of the demo corpus: two to five paragraphs about one place, whose facts stay the same throughout."""

import random
from collections.abc import Callable, Sequence

from ld4lg_fast.data.corpus import TextDataset, TextSplit
from ld4lg_fast.data.demo import AREAS, EAT_TYPES, FAMILY, FOODS, LANDMARKS, MOST_TEXTS, NAMES, NEAR
from ld4lg_fast.errors import ConfigError

PRICES = {
    "cheap": ("cheap", "affordable", "low", "less than £20"),
    "moderate": ("moderately priced", "reasonably priced", "moderate", "about £25"),
    "high": ("expensive", "high-priced", "high", "more than £30"),
}
RATINGS = {
    "high": ("5 out of 5", "very good", "excellent"),
    "average": ("3 out of 5", "fairly good", "decent"),
    "low": ("1 out of 5", "rather poor", "disappointing"),
}


class Place:
    """What a document says again and again, each time in other words."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.name, self.eat_type = rng.choice(NAMES), rng.choice(EAT_TYPES)
        self.food, self.landmark = rng.choice(FOODS), rng.choice(LANDMARKS)
        self.area = rng.choice(tuple(AREAS))
        self.price, self.rating = rng.choice(tuple(PRICES)), rng.choice(tuple(RATINGS))
        self.welcomes_families = rng.choice(FAMILY).good

    def one(self, *wordings: str) -> str:
        return self.rng.choice(wordings)

    @property
    def adjective(self) -> str:
        return self.one(*PRICES[self.price][:2])

    @property
    def where(self) -> str:
        return self.one(*AREAS[self.area])

    @property
    def near(self) -> str:
        return f"{self.one(*NEAR)} {self.landmark}"

    @property
    def it(self) -> str:
        return self.one("It", "The place", f"The {self.eat_type}", self.name)


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'AEIOUaeiou' else 'a'} {phrase}"


def _introduction(p: Place) -> str:
    return p.one(
        f"{p.name} is {_article(f'{p.adjective} {p.food} {p.eat_type}')} {p.where}.",
        f"There is {_article(f'{p.adjective} {p.eat_type}')} called {p.name} {p.where}, which serves {p.food} food.",
        f"{p.where[0].upper()}{p.where[1:]} you find {p.name}, {_article(f'{p.adjective} {p.food} {p.eat_type}')}.",
    )


def _menu(p: Place) -> str:
    return p.one(
        f"The cook of {p.name} makes {p.food} dishes from fresh ingredients.",
        f"{p.it} serves {p.food} food all day.",
        f"Who likes {p.food} food will like the menu of {p.name}.",
        f"On the menu there are {p.food} meals and a few desserts.",
    )


def _bill(p: Place) -> str:
    _, _, level, pounds = PRICES[p.price]
    return p.one(
        f"The prices are {level}, and most meals cost {pounds}.",
        f"Most guests pay {pounds} for {_article(f'{p.food} meal')}.",
        f"At {p.name} the prices are {level}.",
        f"{p.it} is {p.adjective}.",
    )


def _guests(p: Place) -> str:
    stars, opinion, other = RATINGS[p.rating]
    return p.one(
        f"Customers rate {p.name} {stars}.",
        f"Its guests say that the {p.food} food is {p.one(opinion, other)}.",
        f"Its customer rating is {stars}.",
    )


def _way(p: Place) -> str:
    return p.one(
        f"You find {p.name} {p.near}.",
        f"{p.it} is {p.where}, {p.near}.",
        f"From {p.landmark} it is a short walk to {p.name} {p.where}.",
    )


def _rooms(p: Place) -> str:
    return p.one(
        f"The rooms of {p.name} are small and bright.",
        f"In summer you can sit in the garden of the {p.eat_type}.",
        f"{p.it} has tables for about {p.one('twenty', 'forty', 'sixty')} guests.",
    )


def _staff(p: Place) -> str:
    return p.one(
        f"The waiters of {p.name} know everything about {p.food} food.",
        f"The staff of the {p.eat_type} is {p.one('friendly', 'quick', 'patient')}.",
        "You should book a table for the evening.",
    )


def _children(p: Place) -> str:
    if p.welcomes_families:
        return p.one(f"Families with children are welcome at {p.name}.", f"{p.it} is family-friendly.")
    return p.one(f"{p.name} is no place for children.", f"{p.it} is not family-friendly.")


def _advice(p: Place) -> str:
    return p.one(
        f"If you look for {_article(f'{p.adjective} {p.food} {p.eat_type}')} {p.where}, go to {p.name}.",
        f"So for {p.food} food {p.where}, {p.name} is {p.one('worth a visit', 'a good choice')}."
        if p.rating != "low"
        else f"So for {p.food} food {p.where}, there are better places than {p.name}.",
        f"All in all, {p.name} is {_article(f'{p.adjective} {p.eat_type}')} for {p.food} food {p.near}.",
    )


OPENING: Sequence[Callable[[Place], str]] = (_introduction, _way)
ENDING: Sequence[Callable[[Place], str]] = (_advice,)
MIDDLE: Sequence[Sequence[Callable[[Place], str]]] = (
    (_menu, _bill, _staff),
    (_guests, _children, _staff),
    (_rooms, _way, _bill),
)


def _document(rng: random.Random) -> str:
    place = Place(rng)
    paragraphs = [OPENING]
    paragraphs += [
        tuple(rng.sample(topic, rng.randint(2, 3))) for topic in rng.sample(MIDDLE, rng.randint(1, 3))
    ]
    if rng.random() < 0.8:
        paragraphs.append(ENDING)
    return "\n\n".join(" ".join(sentence(place) for sentence in paragraph) for paragraph in paragraphs)


def generate_demo_documents(num_documents: int, seed: int = 0) -> list[str]:
    """``num_documents`` distinct documents; fewer from the same seed are the beginning of more.

    Raises:
        ConfigError: more documents than the grammar readily gives.
    """
    if not 0 < num_documents <= MOST_TEXTS:
        raise ConfigError(
            f"the demo grammar cannot give {num_documents} documents: ask for 1 to {MOST_TEXTS}"
        )
    rng = random.Random(f"documents/{seed}")
    documents: dict[str, None] = {}
    while len(documents) < num_documents:
        documents[_document(rng)] = None
    return list(documents)


def demo_documents(seed: int = 42, train: int = 8000, validation: int = 500, test: int = 500) -> TextDataset:
    """The documents of the given sizes, none in two splits; the held-out sets don't depend on ``train``."""
    documents = generate_demo_documents(validation + test + train, seed)
    held_out = validation + test
    return TextDataset(
        "demo",
        train=TextSplit(documents[held_out:]),
        validation=TextSplit(documents[:validation]),
        test=TextSplit(documents[validation:held_out]),
        class_names=None,
        origin=f"the demo grammar's documents with seed {seed}",
    )
