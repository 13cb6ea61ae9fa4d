"""Labelled texts of a file, as a guide learns from."""

import json

import pytest

from ld4lg_fast.data.labelled import checked_labels, read_labelled
from ld4lg_fast.errors import DataError


@pytest.fixture
def file(tmp_path):
    rows = [
        {"text": "One.", "food": "Thai", "rating": 3},
        {"text": "Two.", "food": None, "rating": 4.5},
        {"text": " ", "food": "Thai", "rating": 1},
        {"text": "Three.", "food": 7, "rating": "2"},
        {"text": "Four."},
    ]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_classes_and_numbers(file):
    classes = read_labelled(file, label_column="food")
    assert classes.texts == ["One.", "Two.", "Three.", "Four."] and not classes.numeric
    assert classes.labels == ["Thai", None, "7", None]
    numbers = read_labelled(file, target_column="rating", text_column="text")
    assert numbers.texts == ["One.", "Two.", "Three."] and numbers.numeric
    assert numbers.labels == [3, 4.5, 2]


def test_sources_come_with_their_texts(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("question,text,mood\na?,A.,calm\nb?,,calm\nc?,C.,loud\n")
    found = read_labelled(path, label_column="mood", source_column="question")
    assert found.sources == ["a?", "c?"] and found.repeated_sources(3) == ["a?", "c?", "a?"]


def test_the_fingerprint_is_that_of_texts_and_labels(file):
    one, other = read_labelled(file, label_column="food"), read_labelled(file, target_column="rating")
    assert one.fingerprint() == checked_labels(one.texts, one.labels, False).fingerprint()
    assert one.fingerprint() != other.fingerprint()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"label_column": "mood"}, "has no column mood, its columns are text, food, rating: name the right"),
        ({"target_column": "food"}, "line 1 of .*texts.jsonl, column food, is 'Thai'; it must be a number"),
        ({"label_column": "rating"}, "line 2 of .*, column rating, is 4.5; it must be the name of a class, a whole"),
        ({"label_column": "food", "text_column": "t"}, "has no column t, .*: name the right one with --text-column"),
    ],
)  # fmt: skip
def test_what_is_neither_is_refused(file, options, sentence):
    with pytest.raises(DataError, match=sentence):
        read_labelled(file, **options)


def test_labels_of_a_call_are_those_of_a_file():
    found = checked_labels(["a", "b", "c", "d"], [1, True, " x ", None], False)
    assert found.labels == ["1", "true", "x", None]
    for label in (float("nan"), float("inf"), [1], "x", True):
        with pytest.raises(DataError, match=r"labels\[0\] is .*; it must be a number"):
            checked_labels(["a"], [label], True)
    for label in (float("nan"), float("inf"), [1], 0.5):
        with pytest.raises(DataError, match=r"labels\[0\] is .*; it must be the name"):
            checked_labels(["a"], [label], False)
