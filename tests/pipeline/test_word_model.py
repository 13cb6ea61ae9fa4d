"""Classes and numbers from the words of texts."""

import pytest
import torch

from ld4lg_fast.pipeline.word_model import WordModel, word_ngrams

FOODS = ("Thai", "Greek")


def texts_of(count):
    texts, labels = [], []
    for number in range(count):
        kind = number % 2
        place = ("river", "station", "park")[number % 3]
        texts.append(f"It is {'' if number % 4 < 2 else 'not '}a {FOODS[kind]} place near the {place}.")
        labels.append(kind)
    return texts, torch.tensor(labels)


def test_runs_of_words():
    found = word_ngrams("Not, not a Pub!")
    assert found == ["not", "a", "pub", "not not", "not a", "a pub", "not not a", "not a pub"]
    assert word_ngrams("") == []


def test_a_class_is_found_by_its_words():
    texts, labels = texts_of(60)
    model, error = WordModel.fit(texts, labels, 2)
    assert error == 0
    scores = model.scores(["A Greek tavern.", "Thai food", "zzz"])
    assert scores[:2].argmax(1).tolist() == [1, 0]
    torch.testing.assert_close(scores[2], model.bias, msg="of no known words there is the bias alone")


def test_pairs_of_words_count():
    texts, _ = texts_of(60)
    labels = torch.tensor([int("not a" in text) for text in texts])
    model, error = WordModel.fit(texts, labels, 2)
    assert error == 0 and "not a" in model.grams and "near the river" in model.grams


def test_a_number_is_found_by_its_words():
    texts, labels = texts_of(60)
    numbers = labels.float() - 0.5 + torch.tensor([0.25 * ("not" in text) for text in texts])
    model, error = WordModel.fit(texts, numbers, None)
    assert error < 0.05
    found = model.scores(["It is a Thai place.", "It is not a Greek place."])[:, 0]
    assert found.tolist() == pytest.approx([-0.5, 0.75], abs=0.2)
