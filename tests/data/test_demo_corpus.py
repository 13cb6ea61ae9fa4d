"""The demo grammar: the same texts from the same seed, all distinct, and English."""

import re

import pytest

from ld4lg_fast.data import demo_dataset, generate_demo_texts, load_text_dataset
from ld4lg_fast.data.demo import FAMILY, FOODS, LANDMARKS, MAX_WORDS, MIN_WORDS, NAMES, PRICES, RATINGS
from ld4lg_fast.errors import ConfigError


@pytest.fixture(scope="module")
def texts():
    return generate_demo_texts(9000, seed=42)


def occurrences(text, phrases):
    return sum(len(re.findall(rf"\b{re.escape(phrase)}(?!\w)", text)) for phrase in phrases)


def test_texts_are_a_function_of_the_seed():
    assert generate_demo_texts(50, seed=3) == generate_demo_texts(80, seed=3)[:50]
    assert generate_demo_texts(50, seed=3) != generate_demo_texts(50, seed=4)


def test_texts_are_distinct_and_of_the_stated_length(texts):
    assert len(set(texts)) == 9000
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) >= MIN_WORDS and max(lengths) <= MAX_WORDS
    assert len(set(lengths)) > 15


def test_splits_have_the_default_sizes_and_no_common_text():
    dataset = load_text_dataset("demo")
    train, validation, test = map(set, (dataset.train.texts, dataset.validation.texts, dataset.test.texts))
    assert (len(train), len(validation), len(test)) == (8000, 500, 500)
    assert train.isdisjoint(validation) and train.isdisjoint(test) and validation.isdisjoint(test)


def test_held_out_texts_do_not_depend_on_the_training_size():
    small, large = demo_dataset(train=10), demo_dataset(train=200)
    assert small.validation == large.validation and small.test == large.test
    assert small.train.texts == large.train.texts[:10]


def test_sentences_are_well_formed(texts):
    for text in texts:
        sentences = re.findall(r"[A-Z][^.]*\.", text)
        assert " ".join(sentences) == text and len(sentences) in (1, 2), text
        assert "  " not in text and " ," not in text and " ." not in text, text
        words = text.rstrip(".").split()
        assert all(a != b for a, b in zip(words, words[1:], strict=False)), text


def test_articles_agree_with_the_next_sound(texts):
    found = {"a": 0, "an": 0}
    for text in texts:
        for article, initial in re.findall(r"\b([Aa]n?) (\w)", text):
            assert (article.lower() == "an") == (initial.lower() in "aeiou"), text
            found[article.lower()] += 1
    assert min(found.values()) > 1000


def test_every_slot_is_said_at_most_once_and_every_value_occurs(texts):
    slots = {
        "food": [[food] for food in FOODS],
        "near": [[landmark] for landmark in LANDMARKS],
        **{
            slot: [[*wording.adjectives, *wording.phrases, *wording.verbs] for wording in values]
            for slot, values in (("price", PRICES), ("rating", RATINGS), ("family", FAMILY))
        },
    }
    # "is not family-friendly" holds "family-friendly", "has low prices" holds "low prices".
    once = {"food": 1, "near": 1, "price": 2, "rating": 2, "family": 2}
    for slot, values in slots.items():
        for phrases in values:
            assert any(occurrences(text, phrases) for text in texts), phrases
        for text in texts:
            said = [occurrences(text, phrases) for phrases in values]
            assert sum(said) <= once[slot], (slot, text)
    for text in texts:
        assert occurrences(text, NAMES) == 1, text


def test_the_vocabulary_is_small_and_the_constructions_are_varied(texts):
    words = {word.strip(".,") for text in texts for word in text.split()}
    assert len(words) < 200
    names = "|".join(map(re.escape, (*NAMES, *FOODS, *LANDMARKS)))
    assert len({re.sub(rf"\ban?\b|\b({names})\b", "_", text) for text in texts}) > 1000
    assert 0.3 < sum(text.count(".") == 2 for text in texts) / len(texts) < 0.9


@pytest.mark.parametrize("number", [0, -1, 10**6])
def test_impossible_sizes_are_refused(number):
    with pytest.raises(ConfigError, match=f"cannot give {number} texts"):
        generate_demo_texts(number)
