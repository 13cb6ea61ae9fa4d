"""Rows of a corpus: none decides for the others, each has its file and line, and none is lost without a word."""

import csv
import json

import datasets
import pytest

from ld4lg_fast.data import TextSplit, load_text_dataset
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.text_files import read_table


def load(folder, contents, **options):
    """A corpus whose training texts are those of some files, in order, and its other sets those of the first."""
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")
    first, *_ = paths = [str(folder / name) for name in contents]
    return load_text_dataset("custom", files={"train": paths, "valid": first, "test": first}, **options)


LABELS = {"label_column": "label"}
PAIRS = {"source_column": "source"}
GOOD = {"good.jsonl": '\n{"text": "a", "label": 1, "source": "s"}\n'}

# Files after a good one with a blank first line; options; what is said.
ROWS = {
    "a first row without text": (
        {"late.jsonl": '{"label": 1}\n{"text": "b", "label": 0}\n'},
        LABELS,
        "line 1 of .*late.jsonl has no text in column text",
    ),
    "a later row without text": (
        {"b.jsonl": '\n\n{"text": "b"}\n\n{"id": 1}\n'},
        {},
        "line 5 of .*b.jsonl has no text in column text",
    ),
    "null": (
        {"b.jsonl": '{"text": "b"}\n{"text": null}\n'},
        {},
        "line 2 of .*b.jsonl has no text in column text",
    ),
    "a number": (
        {"b.jsonl": '\n\n{"text": "b"}\n{"text": 4711}\n'},
        {},
        "line 4 of .*b.jsonl has 4711 in column text",
    ),
    "zero": ({"b.jsonl": '{"text": 0}\n'}, {}, "line 1 of .*b.jsonl has 0 in column text"),
    "a switch": (
        {"b.json": '[\n{"text": "b"},\n{"text": true}\n]'},
        {},
        "line 3 of .*b.json has True in column text",
    ),
    "a list": ({"b.jsonl": '{"text": ["b", "c"]}\n'}, {}, r"line 1 of .* has \['b', 'c'\] in column text"),
    "half a pair": (
        {"b.jsonl": '{"text": "b"}\n{"text": "\\ud83d"}\n'},
        {},
        "line 2 of .* holds half a surrogate pair",
    ),
    "a first row without label": (
        {"b.jsonl": '{"text": "b"}\n{"text": "c", "label": 1}\n'},
        LABELS,
        "line 1 of .*b.jsonl has no label in column label",
    ),
    "no labels in the second file": (
        {"b.txt": "b\n"},
        LABELS,
        "b.txt has no column label, its columns are text",
    ),
    "a label of another kind": (
        {"b.csv": 'text,label\n"b\nb",1\n\nc,\n'},
        LABELS,
        "line 5 of .*b.csv has the label '', which is blank",
    ),
    "a label of thousands of digits": (
        {"b.jsonl": f'{{"text": "b", "label": {"9" * 400}}}\n'},
        LABELS,
        "line 1 of .*b.jsonl has the label a number of .* bits, which is neither a name nor an integer",
    ),
    "a later row without source": (
        {"b.jsonl": '{"text": "b", "source": "s"}\n{"text": "c"}\n'},
        PAIRS,
        "line 2 of .*b.jsonl has no source in column source",
    ),
    "a source that is a number": (
        {"b.jsonl": '{"text": "b", "source": 0}\n'},
        PAIRS,
        "line 1 of .*b.jsonl has 0 in column source where a source should be",
    ),
    "a file that has no such column": (
        {"b.csv": "body,id\nb,1\n"},
        {"text_column": "text"},
        "b.csv has no column text, its columns are body, id: .* dataset.text_column=",
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_rows_are_named_by_their_file_and_line(tmp_path, case):
    contents, options, message = ROWS[case]
    with pytest.raises(DataError, match=message) as raised:
        load(tmp_path, GOOD | contents, **options)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


def test_every_file_has_its_own_columns(tmp_path):
    contents = {
        "a.jsonl": '{"extra": 1, "text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n',
        "b.csv": "Label;TEXT\ny;c\n",
        "c.txt": "d\n",
    }
    assert load(tmp_path, contents).train == TextSplit(["a", "b", "c", "d"])
    del contents["c.txt"]
    found = load(tmp_path, contents, label_column="label")
    assert found.train == TextSplit(["a", "b", "c"], [0, 1, 1]) and found.class_names == ("x", "y")


def test_a_label_that_only_later_rows_have_is_missed(tmp_path):
    rows = ['{"sentence": "a"}', '{"sentence": "b", "label": 1}']
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows))
    with pytest.raises(DataError, match="line 1 of .*train.jsonl has no label in column label"):
        load_text_dataset("sst", root=tmp_path)


def test_rows_of_the_hub_are_named_by_their_number(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "hub"
    folder.mkdir()
    for split, rows in (("train", '{"text": "a"}\n{"text": null}\n'), ("test", '{"text": "b"}\n')):
        (folder / f"{split}.jsonl").write_text(rows)
    with pytest.raises(DataError, match=r"row 2 of .*hub \(train\) on the hub has no text in column text"):
        load_text_dataset("custom", hub=str(folder))


def test_what_is_read_and_what_is_not_is_told(tmp_path):
    for name, content in {
        "train.csv": "text;id\na;1\n;2\n\nb;3\n",
        "dev.txt": "c\n\n",
        "test.jsonl": '\n{"text": "d"}\n{"text": " "}\n',
        "more.txt": "e\n",
    }.items():
        (tmp_path / name).write_text(content)
    assert load_text_dataset("custom", root=tmp_path).origin == (
        f"{tmp_path}/train.csv (2 texts; 2 blank rows left out; its separator is a semicolon), "
        f"{tmp_path}/dev.txt (1 text; 1 blank row left out), "
        f"{tmp_path}/test.jsonl (1 text; 2 blank rows left out); {tmp_path}/more.txt is not read"
    )


def test_files_under_two_names_of_a_split_are_both_read(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(f"{name}\n")
    files = {"train": "a.txt", "valid": "b.txt", "dev": ["c.txt"], "test": "a.txt"}
    assert load_text_dataset("custom", root=tmp_path, files=files).validation.texts == ["b", "c"]


@pytest.mark.parametrize("values", [["1", "01", "1"], ["--5", "5"], ["²", "3"], ["9" * 30, "8"]])
def test_names_that_look_like_numbers_are_classes_in_a_fixed_order(tmp_path, values):
    rows = "".join(f"a,{value}\n" for value in values)
    found = load(tmp_path, {"a.csv": f"text,label\n{rows}"}, **LABELS)
    assert [found.class_names[label] for label in found.train.labels] == values
    assert list(found.class_names) == sorted(set(values))


def test_a_score_that_is_written_with_a_point_is_a_class(tmp_path):
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("description,label\n" + "a,2.0\n" * 1001)
    assert set(load_text_dataset("ag_news", root=tmp_path).train.labels) == {2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": "x"}, "dataset.limit is 'x'; it must be a whole number"),
        ({"limit": 2.5}, "dataset.limit is 2.5; it must be a whole number"),
        ({"limit": True}, "dataset.limit is True; it must be a whole number"),
        ({"num_examples": "many"}, "dataset.num_examples is 'many'; it must be a whole number"),
        ({"seed": -1}, "dataset.seed is -1; it must be a whole number"),
        ({"seed": None}, "dataset.seed is None; it must be a whole number"),
        ({"hub": 5}, "dataset.hub is 5; it must be owner/name"),
        ({"hub": ""}, "dataset.hub is ''; it must be owner/name"),
        ({"hub": {"path": 3}}, "dataset.hub is {'path': 3}; it must be owner/name"),
        ({"hub": {"path": "a/b", "first_label": "x"}}, "it must be owner/name, or have path"),
        ({"root": ""}, r"dataset.root is ''; it must be a path \(a number"),
        ({"root": 3}, "dataset.root is 3; it must be a path"),
        ({"root": True}, "dataset.root is True; it must be a path"),
        ({"files": ""}, "dataset.files is ''; it must be a path, or several"),
        ({"files": []}, r"dataset.files is \[\]; it must be a path, or several"),
        ({"files": 3}, "dataset.files is 3; it must be a path, or several"),
        ({"files": {"train": 3}}, "dataset.files.train is 3; it must be a path, or several"),
        ({"files": {"test": 3.5}}, "dataset.files.test is 3.5; it must be a path"),
        ({"files": {"train": True}}, "dataset.files.train is True; it must be a path"),
        ({"files": {"train": ""}}, "dataset.files.train is ''; it must be a path"),
        ({"files": {"train": ["a.txt", ""]}}, r"dataset.files.train is \['a.txt', ''\]; it must be"),
        ({"files": {"train": {"a": 1}}}, "dataset.files.train is {'a': 1}; it must be a path"),
        ({"files": {3: "a.txt"}}, "dataset.files.3 is no split"),
        ({"files": "a.txt"}, "a.txt is a file, and dataset.files name others: leave one of the two out"),
        ({"files": {"test": "a.txt"}}, "a.txt is a file, and dataset.files name others"),
        ({"root": "/dev/null"}, "/dev/null cannot be read as texts"),
        ({"text_column": ""}, "dataset.text_column is ''; it must be the name of a column"),
        ({"label_column": True}, "dataset.label_column is True; it must be the name"),
        ({"source_column": ["a"]}, r"dataset.source_column is \['a'\]; it must be the name"),
        ({"train_fallback": 3}, "dataset.train_fallback 3; choose one of validation, test"),
        ({"text_column": 5}, "has no column 5, its columns are text"),
    ],
)
def test_options_of_a_wrong_kind_are_refused(tmp_path, options, message):
    (tmp_path / "a.txt").write_text("a\nb\nc\n")
    place = {} if "hub" in options else {"root": tmp_path / "a.txt"}
    name = "demo" if "num_examples" in options else "custom"
    with pytest.raises((ConfigError, DataError), match=message):
        load_text_dataset(name, **place | options)


WHOLE = {"text": "The whole story.", "sentences": [{"text": "One."}, {"text": "Two."}]}


@pytest.mark.parametrize("column", ["text", "sentence", "document", "summary"])
@pytest.mark.parametrize("beside", ["objects", "texts"])
def test_an_object_with_a_text_of_its_own_is_a_row(tmp_path, column, beside):
    lists = {"objects": WHOLE["sentences"], "texts": ["One.", "Two."]}
    (tmp_path / "a.json").write_text(json.dumps({column: WHOLE["text"], "parts": lists[beside]}))
    assert read_table(tmp_path / "a.json").rows == [{column: WHOLE["text"], "parts": lists[beside]}]


def test_an_object_without_a_text_of_its_own_may_hold_the_rows(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": "1", "data": WHOLE["sentences"]}))
    assert read_table(tmp_path / "a.json").rows == WHOLE["sentences"]


@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("ending", [".csv", ".tsv"])
def test_lines_that_are_quoted_as_a_whole_are_a_table(tmp_path, separator, ending):
    path = tmp_path / f"a{ending}"
    lines = ["text{}label", "a b{}1", "", '""x{}y""{}2']
    path.write_text("".join(f'"{line.replace("{}", separator)}"\n' if line else "\n" for line in lines))
    table = read_table(path)
    assert table.rows == [{"text": "a b", "label": "1"}, {"text": f"x{separator}y", "label": "2"}]
    assert table.places == [2, 4] and table.num_blank == 1
    assert table.notes == ("its lines are quoted as a whole",)


@pytest.mark.parametrize(
    "content", ['"text"\n"a;1"\n', '"text, cleaned"\n"a, b"\n', '"text;label"\n"a"\n', '"a","b"\n"c","d"\n']
)
def test_other_quoted_lines_are_what_they_were(tmp_path, content):
    (tmp_path / "a.csv").write_text(content)
    table = read_table(tmp_path / "a.csv")
    assert [list(row) for row in [table.columns(), *(row.values() for row in table.rows)]] == list(
        csv.reader(content.splitlines())
    )


@pytest.mark.parametrize("content", ['{"Text":"a"}\n{"TEXT":"b"}\n', '{"Text":"a","TEXT":"b"}\n'])
def test_columns_that_differ_in_capitals_alone_are_named(tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    said = "has the column text as Text and TEXT: write its name the same in every row, or name the right one"
    with pytest.raises(DataError, match=said):
        load_text_dataset("custom", root=tmp_path / "a.jsonl")
