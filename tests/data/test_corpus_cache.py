"""Kept corpora: the same texts as those that are read, without reading one, as long as the files are the same."""

import json
import os
import threading

import datasets
import numpy as np
import pytest

from ld4lg_fast.data import (
    corpus_cache,
    formats,
    load_text_dataset,
    sources,
    tokenize_texts,
    train_bpe_tokenizer,
)
from ld4lg_fast.data.texts import Labels, Texts
from ld4lg_fast.errors import DataError
from tests.data.test_shards import write as write_file

ROWS = [
    {
        "text": f" Text {number} , by the river – café\u2028 .",
        "kind": "abc"[number % 3],
        "from": f"Source {number}.",
    }
    for number in range(60)
]
ROWS[7] |= {"text": "  "}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder of kept corpora, which may be of any size."""
    monkeypatch.setattr(corpus_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    return tmp_path / "hub" / "ld4lg_fast"


def write(path, rows=ROWS):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def content(dataset):
    """Everything in it as lists, as files that are mapped are overwritten here."""
    splits = [getattr(dataset, split) for split in ("train", "validation", "test")]
    columns = [[part.texts, part.labels or (), part.sources or ()] for part in splits]
    lists = [[list(column) for column in part] for part in columns]
    return dataset.name, dataset.class_names, dataset.origin, lists


def folders(kept):
    return [path for path in kept.iterdir() if path.is_dir()]


CORPORA = {
    "custom": ("custom", {"train.jsonl": ROWS}, {}),
    "with all columns": ("custom", {"train.jsonl": ROWS}, {"label_column": "kind", "source_column": "from"}),
    "limited": ("custom", {"train.jsonl": ROWS}, {"limit": 5, "seed": 3}),
    "published": (
        "qqp",
        dict.fromkeys(
            ("train.jsonl", "valid.jsonl", "test.jsonl"), [{"src": row["from"], "trg": row["text"]} for row in ROWS]
        ),
        {},
    ),
    "documents": (
        "e2e",
        {
            f"{name}.jsonl": [{"mr": str(number // 3), "ref": row["text"]} for number, row in enumerate(ROWS)]
            for name in ("trainset", "devset", "testset_w_refs")
        },
        {"documents": True},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CORPORA)
def test_a_kept_corpus_is_the_one_that_was_read(name, tmp_path, kept, monkeypatch):
    corpus, files, options = CORPORA[name]
    for file, rows in files.items():
        write(tmp_path / "corpus" / file, rows)
    options = options | {"root": tmp_path / "corpus"}
    with monkeypatch.context() as context:
        context.setattr(corpus_cache, "LEAST_BYTES", 2**30)
        read = load_text_dataset(corpus, **options)
    assert isinstance(read.train.texts, list) and not kept.exists()
    made = load_text_dataset(corpus, **options)
    monkeypatch.setattr(sources, "read_in_chunks", lambda path: pytest.fail("read again"))
    opened = load_text_dataset(corpus, **options)
    assert isinstance(made.train.texts, Texts) and isinstance(opened.train.texts, Texts)
    assert content(opened) == content(made) == content(read)
    assert opened.train.select([2, 0]).texts == [read.train.texts[2], read.train.texts[0]]


def test_another_file_or_option_is_another_corpus(tmp_path, kept):
    path = write(tmp_path / "a.jsonl")
    for number, change in enumerate(
        (
            lambda: {},
            lambda: {"seed": 1},
            lambda: {"source_column": "from"},
            lambda: write(path, ROWS[:-1]) and {},
            lambda: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1000)) or {},
        ),
        start=1,
    ):
        load_text_dataset("custom", root=path, **change())
        assert len(folders(kept)) == number
    assert len(load_text_dataset("custom", root=path).train) == 54 and len(folders(kept)) == 5


def test_contents_are_compared_on_request(tmp_path, kept):
    """By them a file that was only touched is the same, and one that only looks the same is another."""
    path = write(tmp_path / "a.jsonl")

    def rewrite(old: str, new: str) -> None:
        before = path.stat()
        path.write_text(path.read_text().replace(old, new))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size

    def first_text(compare_contents: bool) -> str:
        return load_text_dataset("custom", root=path, compare_contents=compare_contents).train.texts[0]

    old = [first_text(compare_contents) for compare_contents in (False, True)]
    assert len(folders(kept)) == 2
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1000))
    assert first_text(True) == old[1] and len(folders(kept)) == 2
    first_text(False)
    assert len(folders(kept)) == 3
    rewrite(old[0][:4], old[0][:4].swapcase())
    assert first_text(False) == old[0], "sizes and times are the same"
    assert first_text(True) == old[1][:4].swapcase() + old[1][4:] and len(folders(kept)) == 4


def test_a_small_corpus_is_not_kept(tmp_path, kept, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    monkeypatch.setattr(corpus_cache, "LEAST_BYTES", path.stat().st_size + 1)
    load_text_dataset("custom", root=path)
    assert not kept.exists()


@pytest.mark.parametrize("name", ["train.arrow", "test.arrow", "corpus.json"])
@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "other"])
def test_a_damaged_corpus_is_read_again(name, damage, tmp_path, kept, caplog):
    path = write(tmp_path / "a.jsonl")
    wanted = content(load_text_dataset("custom", root=path))
    (folder,) = folders(kept)
    file = folder / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    else:
        other = "test" if name == "train.arrow" else "train"
        file.write_bytes((folder / f"{other}.arrow").read_bytes())
    assert content(load_text_dataset("custom", root=path)) == wanted
    assert "is damaged and is read again" in caplog.text
    caplog.clear()
    assert content(load_text_dataset("custom", root=path)) == wanted and not caplog.text


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, kept, monkeypatch, caplog):
    def full(path, split):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus_cache, "_write_split", full)
    dataset = load_text_dataset("custom", root=write(tmp_path / "a.jsonl"))
    assert len(dataset.train) == 55 and "is not kept in" in caplog.text and "No space left" in caplog.text
    assert not folders(kept)


def test_two_that_come_at_once_read_it_once(tmp_path, kept, monkeypatch):
    path, reads, real = write(tmp_path / "a.jsonl"), [], sources.read_in_chunks
    begun, waited, found = threading.Event(), threading.Event(), []

    def slow(path):
        reads.append(path)
        begun.set()
        waited.wait(30)
        return real(path)

    monkeypatch.setattr(sources, "read_in_chunks", slow)
    one, other = (
        threading.Thread(target=lambda: found.append(content(load_text_dataset("custom", root=path))))
        for _ in range(2)
    )
    one.start()
    assert begun.wait(30)
    other.start()
    other.join(0.3)  # it waits for the first
    waited.set()
    for thread in (one, other):
        thread.join(30)
    assert len(reads) == 1 and len(found) == 2 and found[0] == found[1]


def test_tokens_of_a_kept_corpus_are_found_without_its_texts(tmp_path, kept, monkeypatch):
    path = write(tmp_path / "a.jsonl")
    texts = load_text_dataset("custom", root=path).train.texts
    tokenizer = train_bpe_tokenizer(texts, 300)
    assert tokenizer.get_vocab() == train_bpe_tokenizer(list(texts), 300).get_vocab()
    made = tokenize_texts(texts, tokenizer, 12, tmp_path / "tokens")
    assert (made.flat == tokenize_texts(list(texts), tokenizer, 12).flat).all()
    texts = load_text_dataset("custom", root=path).train.texts
    monkeypatch.setattr(Texts, "__iter__", lambda self: pytest.fail("read"))
    found = tokenize_texts(texts, tokenizer, 12, tmp_path / "tokens")
    assert (found.flat == made.flat).all() and found.num_truncated == made.num_truncated
    monkeypatch.undo()
    tokenize_texts(texts[:-1], tokenizer, 12, tmp_path / "tokens")
    assert len(list((tmp_path / "tokens").iterdir())) == 2


def test_texts_are_a_sequence(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(corpus_cache, "_ROWS", 7)
    texts = load_text_dataset("custom", root=write(tmp_path / "a.jsonl")).train.texts
    every = list(texts)
    assert len(texts) == len(every) == 55 and texts == every and texts != every[1:]
    for index in (0, 6, 7, 54, -1):
        assert texts[index] == every[index]
    for part in (slice(5), slice(3, 20), slice(-4, None), slice(None, None, 3), slice(9, 2), slice(50, 99)):
        assert texts[part] == every[part]
    with pytest.raises(IndexError):
        texts[55]


def lines(rows):
    return "".join(f"{row['text']}\n" for row in rows)


FORMATS = {
    "a.txt": lines(ROWS),
    "a.jsonl": "\n".join(f"{json.dumps(row)}\n" for row in ROWS),
    "a.json": json.dumps(ROWS),
    "a.csv": "text,from\n" + "".join(f'"{row["text"]}",{row["from"]}\n' for row in ROWS),
    "a.tsv": "text\tfrom\n" + "".join(f"{row['text']}\t{row['from']}\n" for row in ROWS),
    "a.parquet": ROWS,
    "a.jsonl.gz": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    "a.txt.zst": f"\ufeff{lines(ROWS[:20])}\r\n \r{lines(ROWS[20:])}",
}


def in_memory_and_kept(monkeypatch, path, **options):
    """What is loaded, or the error, in memory and in chunks of three rows."""
    monkeypatch.setattr(formats, "CHUNK_ROWS", 3)
    found = []
    for least in (2**30, 0):
        monkeypatch.setattr(corpus_cache, "LEAST_BYTES", least)
        try:
            found.append(content(load_text_dataset("custom", root=path, **options)))
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("name", FORMATS)
def test_rows_in_chunks_are_those_of_the_whole_file(name, tmp_path, kept, monkeypatch):
    path = write_file(tmp_path / name, FORMATS[name])
    options = {} if ".txt" in name else {"source_column": "from"}
    in_memory, in_chunks = in_memory_and_kept(monkeypatch, path, **options)
    assert in_chunks == in_memory and len(in_memory[3][0][0]) == 55 and "blank row" in in_memory[2]
    assert ("carriage return" in in_memory[2]) == (name == "a.txt.zst")


SPOILED = {
    "no JSON": ("a.jsonl", "".join(f"{json.dumps(row)}\n" for row in ROWS[:30]) + "{\n"),
    "no text": ("a.jsonl", "".join(f"{json.dumps(row)}\n" for row in [*ROWS[:30], {"from": "x"}])),
    "a number": ("a.parquet.jsonl", "".join(f"{json.dumps(row)}\n" for row in [*ROWS[:30], {"text": 3}])),
    "no UTF-8": ("a.txt", lines(ROWS).encode() + b"\xff\n"),
    "null": ("a.parquet", [*ROWS[:30], {"text": None, "from": "x"}]),
    "another column at first": (
        "a.jsonl",
        "".join(f"{json.dumps(row)}\n" for row in [*[{"b": "x"}] * 9, *ROWS]),
    ),
    "another case at first": (
        "a.jsonl",
        "".join(f"{json.dumps(row)}\n" for row in [*[{"Text": "x"}] * 9, *ROWS]),
    ),
    "empty": ("a.jsonl", "\n\n"),
    "one blank line": ("a.txt", ""),
    "ragged": ("a.csv", "text,from\n" + "a,b\n" * 20 + "c\n"),
    "open quote": ("a.csv", "text,from\n" + "a,b\n" * 20 + '"c "d" e",f\n'),
    "two columns of one name": ("a.csv", "text,text\na,b\n"),
    "no more JSON": ("a.json", json.dumps(ROWS)[:-5]),
    "a number in a list": ("a.json", json.dumps([*ROWS[:30], {"text": 3}])),
    "no rows": ("a.csv", "text,from\n"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_errors_in_chunks_are_those_of_the_whole_file(name, tmp_path, kept, monkeypatch):
    file, rows = SPOILED[name]
    in_memory, in_chunks = in_memory_and_kept(monkeypatch, write_file(tmp_path / file, rows))
    assert in_chunks == in_memory and isinstance(in_memory, str)
    assert not kept.exists() or not folders(kept)


LABELS = {
    "names": [row["kind"] for row in ROWS],
    "numbers": [number % 12 for number in range(60)],
    "blank": [*"ab" * 20, " ", *"c" * 19],
    "a float": [*[1, 2] * 20, 1.5, *[1] * 19],
    "missing": [*"ab" * 20, *[None] * 20],
}


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("name", LABELS)
def test_labels_in_chunks_are_those_of_the_whole_file(name, ending, documents, tmp_path, kept, monkeypatch):
    rows = [{"text": row["text"], "kind": kind} for row, kind in zip(ROWS, LABELS[name], strict=True)]
    if ending == ".parquet":
        rows = [row | {"kind": None if row["kind"] is None else str(row["kind"])} for row in rows]
    content = {
        ".jsonl": "".join(f"{json.dumps(row)}\n" for row in rows),
        ".csv": "text,kind\n" + "".join(f'"{row["text"]}",{row["kind"]}\n' for row in rows),
        ".parquet": rows,
    }[ending]
    path = write_file(tmp_path / f"a{ending}", content)
    in_memory, in_chunks = in_memory_and_kept(monkeypatch, path, label_column="kind", documents=documents)
    assert in_chunks == in_memory
    if name in ("names", "numbers"):
        assert len(in_memory[1]) == len(set(LABELS[name])) and len(in_memory[3][0][1]) == 55
        opened = load_text_dataset("custom", root=path, label_column="kind", documents=documents).train.labels
        assert np.asarray(opened).tolist() == in_memory[3][0][1] and isinstance(opened, Labels)


def test_labels_that_begin_late_are_read(tmp_path, kept, monkeypatch):
    """Those of a corpus that need not have them."""
    monkeypatch.setattr(formats, "CHUNK_ROWS", 3)
    for split in ("train", "validation", "test"):
        rows = [
            {"text": f"Text {number}."} | ({"label": number % 2} if number > 9 else {})
            for number in range(20)
        ]
        write(tmp_path / "corpus" / f"{split}.jsonl", rows)
    with pytest.raises(DataError, match="line 1 of .*train.jsonl has no label in column label"):
        load_text_dataset("movie_reviews", root=tmp_path / "corpus")
