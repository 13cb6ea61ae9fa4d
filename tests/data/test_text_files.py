"""Files of texts: one definition for the package and the exported runtime, over formats, line ends and dialects."""

import csv
import io
import json
import os
import threading
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.data import load_text_dataset
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime import command
from ld4lg_fast.pipeline.sources import read_sources

# Separators that `str.splitlines` cuts at, and what else may stand in the middle of a line.
TEXTS = [
    "first half\u2028second half",
    "one\u2029two",
    "next\x85line",
    "vertical\x0btab",
    "form\x0cfeed",
    "file\x1cseparator",
    "nul\x00byte",
    "Crème brûlée, \ufeffsold out.",
    "今天天气怎么样",
]
LINE_ENDS = {"LF": "\n", "CRLF": "\r\n", "CR": "\r"}


def txt(texts, end):
    return [*texts[:2], "", "  ", *texts[2:]]


def jsonl(texts, end):
    lines = [json.dumps({"id": 0, "text": text}, ensure_ascii=False) for text in texts]
    return [lines[0], "", *lines[1:]]


def json_list(texts, end):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    return ["[", *(f"{line}," for line in lines[:-1]), lines[-1], "]"]


def table(separator, texts, end):
    return [f"id{separator}text", *(f'{i}{separator}"{text}"' for i, text in enumerate(texts)), ""]


def tab_table(texts, end):
    return ["id\ttext", *(f"{i}\t{text}" for i, text in enumerate(texts)), ""]


FORMATS = {
    "txt": txt,
    "jsonl": jsonl,
    "json": json_list,
    "csv": partial(table, ","),
    "tsv": tab_table,
}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """The sources that an exported folder's command reads from a file, by the command itself."""

    class Model:
        def __init__(self, *arguments):
            pass

        def __call__(self, count, *, source, **options):
            taken.append([source] if isinstance(source, str) else source)
            return ["a text"] * count

    def sources(path):
        taken.clear()
        command.main(tmp_path, ["--source-file", str(path)])
        return taken[0]

    taken = []
    monkeypatch.setattr(command, "OnnxTextDiffusion", Model)
    return sources


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
@pytest.mark.parametrize("final", [True, False], ids=["", "no-final-newline"])
@pytest.mark.parametrize("end", LINE_ENDS)
@pytest.mark.parametrize("kind", FORMATS)
def test_all_readers_find_the_same_texts(tmp_path, exported, kind, end, final, mark):
    lines = FORMATS[kind](TEXTS, LINE_ENDS[end])
    content = mark + LINE_ENDS[end].join(lines) + LINE_ENDS[end] * final
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content.encode())
    assert read_sources(path) == exported(path) == TEXTS
    corpus = load_text_dataset("custom", root=path)
    assert sorted(corpus.train.texts + corpus.validation.texts + corpus.test.texts) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\ntwo\n".encode("utf-16"), "is UTF-16 text"),
        ("a.txt", "one line\ntwo\n".encode("utf-16-le"), "is UTF-16 text"),
        ("a.csv", "text\none line\n".encode("utf-16-be"), "is UTF-16 text"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n', r"is not UTF-8 text \(byte 27\) in line 2"),
        ("a.txt", b"one\rtwo\rcaf\xe9\r", r"is not UTF-8 text \(byte 11\) in line 3"),
        ("a.md", b"one\n", "its name must end in .jsonl"),
        (
            "a.jsonl",
            b'{"id": 0, "text": "a"}\n{"id": 0}\n',
            "line 2 of .*a.jsonl has no source in column text",
        ),
        (
            "a.jsonl",
            b'\n\n{"id": 1}\n{"source": "b"}\n',
            "line 3 of .*a.jsonl has no source in column source",
        ),
        ("a.jsonl", b'{"id": 1}\n', "line 1 of .*a.jsonl has 1 in column id where a source should be"),
        ("a.jsonl", b'{"source": "a"}\n{"source": 0}\n', "line 2 of .* has 0 in column source"),
        ("a.jsonl", b'{"source": true}\n', "line 1 of .* has True in column source"),
        ("a.jsonl", b'{"source": ["a", "b"]}\n', r"line 1 of .* has \['a', 'b'\] in column source"),
        ("a.jsonl", b'{"source": null}\n', "line 1 of .* has no source in column source"),
        ("a.txt", b"\n \n", "has no source text: write one a line"),
        ("gone.txt", None, "gone.txt does not exist"),
        (".", None, "its name must end in .jsonl"),
    ],
)
def test_all_readers_refuse_in_the_same_words(tmp_path, exported, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        read_sources(path)
    with pytest.raises(SystemExit) as stopped:
        exported(path)
    assert stopped.value.code == 2 and capsys.readouterr().err == f"error: {raised.value}\n"


def test_rows_without_a_source_are_left_out_with_a_word(tmp_path, exported, capsys, caplog):
    path = tmp_path / "a.csv"
    path.write_text("source;id\none;1\n ;2\n\ntwo;3\n")
    assert read_sources(path) == exported(path) == ["one", "two"]
    account = f"{path} (2 texts; 2 blank rows left out; its separator is a semicolon)"
    assert f"Sources are read from {account}" in caplog.text
    printed = capsys.readouterr()
    assert account in printed.err and account not in printed.out


def test_a_pipe_has_a_text_a_line(tmp_path, exported):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for read in (read_sources, exported):
        writer = threading.Thread(target=pipe.write_text, args=("one\u2028two\r\nthree",))
        writer.start()
        assert read(pipe) == ["one\u2028two", "three"]
        writer.join()


# --- dialects ---


def texts_of(path, **options):
    """All texts and labels of a file in its order, and what is said of how it was read."""
    found = load_text_dataset(
        "custom", files={split: str(path) for split in ("train", "valid", "test")}, **options
    )
    return found.train.texts, found.train.labels, found.origin.partition("), ")[0] + ")"


OPEN_QUOTES = """id\tsentence1\tsentence2\tlabel
1\tThe old mill was sold in spring.\tIn spring the old mill was sold.\t1
2\t"The bridge is safe , said the mayor .\tThe mayor said the bridge is safe .\t1
3\tRain fell on the northern hills .\tThe northern hills stayed dry .\t0
4\tShe plays the cello and he sings .\tHe sings and she plays the cello .\t1
5\t"A quiet street is a village song .\tA village song is "A quiet street .\t0
6\tBread costs more than rice here .\tHere rice costs less than bread .\t1
7\tThe pipe is 5" wide .\tIt is a pipe of 5" .\t1
8\tThe train left before noon .\tThe train left after noon .\t0
"""

# Content, the texts, and what is said beside their number.
TABLES = {
    # Which separator.
    "semicolon.csv": (
        "text;stars\nA heron, grey.;2\nNobody.;3\n",
        ["A heron, grey.", "Nobody."],
        "a semicolon",
    ),
    "bar.csv": ("id|text\n1|a, b\n2|c\n", ["a, b", "c"], "its separator is a bar"),
    "tab.csv": ("id\ttext\n1\ta, b\n2\tc\n", ["a, b", "c"], "its separator is a tab"),
    "comma.tsv": ("id,text\n1,a\n2,c\n", ["a", "c"], "its separator is a comma"),
    "excel.csv": ("sep=;\ntext;n\na;1\n", ["a"], "1 text)"),
    "declared.csv": ('\ufeff"sep=|"\r\n\r\ntext|n\r\na|1\r\n', ["a"], "1 text; 1 blank row left out)"),
    "decimal.csv": ('text;score\n"a; b";1,5\nc;2,5\n', ["a; b", "c"], "a semicolon"),
    "inside.csv": ("text\na; b\nc, d\n".replace("c, d", '"c, d"'), ["a; b", "c, d"], "2 texts)"),
    # Which quotes.
    "open.csv": (
        'id,text\n1,"The bridge\n2,a 5" pipe\n',
        ['"The bridge', 'a 5" pipe'],
        "quotes are characters",
    ),
    "said.csv": ('text,id\n"Yes" he said.,1\nNo.,2\n', ['"Yes" he said.', "No."], "quotes are characters"),
    "blank.csv": ('id, text\n1, "a, b"\n2, "c"\n', ["a, b", "c"], "2 texts)"),
    "lines.csv": ('id,text\n1,"a\nb"\n2,c\n', ["a\nb", "c"], "2 texts; 1 row spans 2 lines)"),
    "pandas.tsv": (
        'id\ttext\n1\t"a ""b"""\n2\t"c\td"\n3\t"e\nf"\n4\tg\n',
        ['a "b"', "c\td", "e\nf", "g"],
        "1 row",
    ),
    "all.tsv": ('"id"\t"text"\n"1"\t"a"\n"2"\t"b"\n', ["a", "b"], "2 texts)"),
    "excel.tsv": ('id\ttext\n1\t"Yes, I will."\n2\tNo.\n', ["Yes, I will.", "No."], "2 texts)"),
    "utterances.tsv": ('id\ttext\n1\t"Yes."\n2\tNo, no.\n', ['"Yes."', "No, no."], "quotes are characters"),
    "swallowed.tsv": ('id\ttext\n1\t"a\n2\tb\n3\tc"\n', ['"a', "b", 'c"'], "quotes are characters"),
    "nothing.tsv": ('id\ttext\n1\t""\n2\t"b"\n', ["b"], "1 text; 1 blank row left out)"),
    "long.tsv": ('text\tid\n"a\n\nb"\t1\n"c\nd"\t2\n', ["a\n\nb", "c\nd"], "2 rows span up to 3 lines)"),
    "one.tsv": ('text\n"a\nb "c" d\n', ['"a', 'b "c" d'], "quotes are characters"),
    # Which rows and columns.
    "trailing.csv": ("text,id,\na,1,\nb,2,,\n", ["a", "b"], "2 texts)"),
    "capital.csv": ("\ufeffID , Text\n1,a\n2,b\n", ["a", "b"], "2 texts)"),
    "empties.csv": ("text,id\na,1\n,\n \nb,2\n,,\n", ["a", "b"], "2 texts; 3 blank rows left out)"),
    "review.csv": (
        "review\na\nb\n",
        ["a", "b"],
        "its only column, review, is taken for the text; write the line text",
    ),
    "lone.jsonl": ('{"review": "a"}\n', ["a"], "its only column, review, is taken for the text)"),
    "mixed.txt": ("a\rb\nc", ["a", "b", "c"], "a carriage return alone ends 1 line"),
    # JSON.
    "data.json": ('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}', ["a", "b"], "'data' of"),
    "column.json": ('{"text": ["a", "b"]}', ["a", "b"], "'text' of"),
    "row.json": ('{"text": "a", "tags": ["x", "y"]}', ["a"], "1 text)"),
    "lines.json": ('{"text": "a"}\n\n{"text": "b"}\n', ["a", "b"], "2 texts)"),
    "pretty.json": ('{\n"text": "a"\n}\n{\n"text": "b"\n}', ["a", "b"], "2 texts)"),
    "nan.jsonl": ('{"text": "a", "n": NaN}\n{"text": "b", "n": Infinity}\n', ["a", "b"], "2 texts)"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_read_by_their_own_dialect(tmp_path, name):
    content, texts, said = TABLES[name]
    (tmp_path / name).write_bytes(content.encode())
    found, _, origin = texts_of(tmp_path / name)
    assert found == texts and said in origin


def test_quotes_that_are_never_closed_are_characters(tmp_path):
    (tmp_path / "open_quotes.tsv").write_text(OPEN_QUOTES)
    texts, labels, origin = texts_of(
        tmp_path / "open_quotes.tsv", text_column="sentence1", label_column="label"
    )
    assert texts == [line.split("\t")[1] for line in OPEN_QUOTES.splitlines()[1:]]
    assert labels == [1, 1, 0, 1, 0, 1, 1, 0] and "8 texts; its quotes are characters" in origin


REFUSED = {
    "headless.csv": (
        "The kettle sings.\nA heron.\n",
        "the first line of .*, 'The kettle sings.', should name its column",
    ),
    "mixture.csv": (
        "text;stars\na;1\nb\n",
        r"line 3 of .* as many columns as the first line \(2\), as its separator is a s",
    ),
    "ragged.csv": (
        "id,text\n1,a\n\n2,b,c\n",
        r"line 4 of .* as many columns as the first line \(2\): quote fields",
    ),
    "after.csv": ('id,text\n1,"a\nb"\n2,b,c\n', r"line 4 of .* as many columns as the first line \(2\)"),
    "ragged.tsv": ("id\ttext\n1\ta\n2\n", r"line 3 of .* as many columns as the first line \(2\)"),
    "inner.csv": (
        'text,id\n"He said "no" to it",1\n',
        "line 2 of .* has a quote that is not closed, or not doubled",
    ),
    "open.csv": (
        'text,id\n"a",1\n"b,2\nc,3\n',
        "line 3 of .* has a quote that is not closed, or not doubled",
    ),
    "twice.csv": ("text,text\na,b\n", "has two columns called text: rename one"),
    "comma.jsonl": (
        '{"text": "a"},\n{"text": "b"}\n',
        "line 1 of .* is not JSON .*Extra data.*: write one JSON",
    ),
    "twice.jsonl": (
        '{"text": "a"}\n{"text": "b", "text": "c"}\n',
        r"line 2 of .* is not JSON \(it holds the key 'text' twice\)",
    ),
    "long.jsonl": (
        '{"text": "a", "n": %s}\n' % ("9" * 5000),
        r"line 1 of .* is not JSON \(Exceeds the limit",
    ),
    "deep.jsonl": ("[" * 100_000 + "\n", r"line 1 of .* is not JSON \(maximum recursion depth"),
    "deep.json": ("\n" + "[" * 100_000, r"line 2 of .* is not JSON \(maximum recursion depth"),
    "list.json": ('[{"text": "a"}\n{"text": "b"}]', "line 2 of .* is not JSON .a comma or ] is missing"),
    "open.json": ('[{"text": "a"},\n', "line 2 of .* is not JSON .Expecting value"),
    "nested.json": ('["a",\n["b", "c"]]', "line 2 of .* is neither an object nor a text"),
    "splits.json": (
        '{"train": [{"text": "a"}], "test": [{"text": "b"}]}',
        "one object with the lists train, test",
    ),
    "columns.json": ('{"text": ["a", "b"], "label": [0, 1]}', "one object with the lists text, label"),
    "number.jsonl": (
        '{"text": "a"}\n\n{"text": NaN}\n',
        "line 3 of .* has nan in column text where a text should be",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tables_that_cannot_be_read_are_refused_by_file_and_line(tmp_path, name):
    content, message = REFUSED[name]
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(DataError, match=message) as raised:
        texts_of(tmp_path / name)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600 and name in str(raised.value)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.sampled_from('ab"";|\' ,\n\r'), min_size=1, max_size=8).map(lambda text: f"x{text}x"),
            st.integers(0, 9).map(str),
        ),
        min_size=1,
        max_size=6,
    ),
    separator=st.sampled_from([",", ";", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
)
def test_what_csv_writers_write_comes_back(tmp_path_factory, rows, separator, quoting):
    file = io.StringIO()
    csv.writer(file, delimiter=separator, quoting=quoting).writerows([("text", "n"), *rows])
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(file.getvalue().encode())
    assert texts_of(path)[0] == [text for text, _ in rows]
