"""Files read chunk by chunk: the same rows, places and sentences as when they are read whole, in little memory."""

import json
import tracemalloc
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ld4lg_fast.data import formats
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime import text_lines
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.json_rows import rows_of_documents
from tests.data.test_shards import write
from tests.data.test_text_files import REFUSED, TABLES

FILES = {name: content for name, (content, *_) in (TABLES | REFUSED).items()}
FILES |= {
    "marks.json": '\ufeff[{"text": "a\ufeff"},\r\n\ufeff{"text": "b"}]\r',
    "two_lists.json": '["a"]\n["b"]',
    "list_first.json": '["a", "b"]\n{"text": "c"}',
    "rest.json": '["a", "b"]\n]',
    "empty.json": " \n",
    "no_rows.json": "[]",
    "word.json": '["a", nul]',
    "numbers.json": '[{"text": "a", "n": 12}, {"text": "b", "n": -Infinity}] ',
    "number.json": "12",
    "surrogates.json": '["\\ud83d\\ude00", "a"]',
    "string.json": '["a", "b]\n',
    "key_twice.json": '["a",\n{"text": "b", "text": "c"}]',
    "bytes.json": b'["a",\n"b\xff"]',
    "cut.json": '["a",\n"é"]'.encode()[:-3],
    "nothing.csv": "",
    "header.csv": "text,id\n",
}


def found(read):
    """What is read: the rows with their places, and everything else that is known of the file; or the sentence."""
    try:
        tables = list(read())
    except (DataError, RuntimeInputError) as error:
        return str(error), None
    rows = [(table.where(index), row) for table in tables for index, row in enumerate(table.rows)]
    facts = {(table.name, table.unit, table.has_header) for table in tables}
    notes = tuple(chain.from_iterable(table.notes for table in tables))
    return repr((rows, facts, notes, sum(table.num_blank for table in tables))), tables


@pytest.mark.parametrize("piece", [1, 7, 2**20])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_chunks_are_the_rows_of_the_whole_file(name, ending, piece, tmp_path, monkeypatch):
    content = FILES[name]
    if ending:
        content = content if isinstance(content, str) else content.decode("latin-1")
    path = write(tmp_path / f"{name}{ending}", content)
    whole, _ = found(lambda: [formats.read_table(path)])
    monkeypatch.setattr(formats, "CHUNK_ROWS", 2)
    monkeypatch.setattr(text_lines, "_PIECE", piece)
    in_chunks, tables = found(lambda: formats.read_in_chunks(path))
    assert in_chunks == whole
    assert tables is None or max(len(table.rows) for table in tables) <= 2


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), max_size=5),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
    size=st.integers(1, 20),
)
def test_json_in_pieces_is_the_json_that_was_written(rows, indent, ascii_only, size):
    for text in (
        json.dumps(rows, indent=indent, ensure_ascii=ascii_only),
        "\n".join(
            json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in [*rows, {"text": "a"}, {}]
        ),
    ):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        read, key = rows_of_documents(pieces, "a.json")
        wanted = rows if text.startswith("[") else [*rows, {"text": "a"}, {}]
        assert [row for _, row in read] == wanted and key is None


LARGE = 40_000  # rows


@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".json", ".csv", ".tsv", ".json.gz"])
def test_memory_does_not_grow_with_the_file(ending, tmp_path, monkeypatch):
    texts = [
        f"Text {number}, by the river and under the bridge, where the old mill stands."
        for number in range(LARGE)
    ]
    rows = [{"id": number, "text": text} for number, text in enumerate(texts)]
    content = {
        ".txt": "".join(f"{text}\n" for text in texts),
        ".jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        ".json": json.dumps(rows),
        ".csv": "id,text\n" + "".join(f'{row["id"]},"{row["text"]}"\n' for row in rows),
        ".tsv": "id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in rows),
    }[ending.removesuffix(".gz")]
    path = write(tmp_path / f"a{ending}", content)
    monkeypatch.setattr(formats, "CHUNK_ROWS", 500)
    monkeypatch.setattr(text_lines, "_PIECE", 2**15)
    tracemalloc.start()
    try:
        count = sum(len(table.rows) for table in formats.read_in_chunks(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == LARGE and peak < 2**20 < len(content) / 2
