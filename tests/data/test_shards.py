"""Corpora in several files, compressed files, Parquet: the same texts, and sentences on what is missing or damaged."""

import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from ld4lg_fast.data import corpus_cache, load_text_dataset
from ld4lg_fast.errors import DataError

TEXTS = [f"Text number {number}, by the river – café." for number in range(40)]
ROWS = [{"text": text, "kind": "ab"[number % 2]} for number, text in enumerate(TEXTS)]
PLAIN = {
    ".txt": "".join(f"{text}\n" for text in TEXTS),
    ".jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS),
    ".json": json.dumps(ROWS),
    ".csv": "text,kind\n" + "".join(f'"{row["text"]}",{row["kind"]}\n' for row in ROWS),
    ".tsv": "text\tkind\n" + "".join(f"{row['text']}\t{row['kind']}\n" for row in ROWS),
}
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


def write(path, content):
    """Writes text, compressed as the name says, or rows as Parquet."""
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    elif path.suffix in COMPRESSIONS:
        with pyarrow.output_stream(str(path), compression=COMPRESSIONS[path.suffix]) as file:
            file.write(content.encode())
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def split_of(dataset):
    return [vars(getattr(dataset, split)) for split in ("train", "validation", "test")]


def lines(texts):
    return "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("ending", PLAIN)
def test_a_compressed_file_is_read_as_the_plain_one(ending, compression, tmp_path):
    plain, packed = (
        load_text_dataset("custom", root=write(tmp_path / f"a{suffix}", PLAIN[ending]))
        for suffix in (ending, f"{ending}{compression}")
    )
    assert split_of(packed) == split_of(plain) and len(plain.train) == 36
    assert packed.origin == plain.origin.replace(f"a{ending}", f"a{ending}{compression}")


def test_a_parquet_file_is_read_as_its_rows(tmp_path):
    rows = write(tmp_path / "a.parquet", ROWS)
    read = load_text_dataset("custom", root=rows, label_column="kind")
    wanted = load_text_dataset(
        "custom", root=write(tmp_path / "a.jsonl", PLAIN[".jsonl"]), label_column="kind"
    )
    assert split_of(read) == split_of(wanted) and read.class_names == wanted.class_names == ("a", "b")
    write(tmp_path / "b.parquet", [{"text": "one"}, {"text": None}])
    with pytest.raises(DataError, match="row 2 of .*b.parquet has no text in column text"):
        load_text_dataset("custom", root=tmp_path / "b.parquet")


@pytest.mark.parametrize("ending", [".jsonl.gz", ".txt.zst", ".parquet"])
def test_a_damaged_file_is_one_sentence(ending, tmp_path):
    content = ROWS if ending == ".parquet" else PLAIN[f".{ending.split('.')[1]}"]
    path = write(tmp_path / f"train{ending}", content)
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[:middle] + bytes(40) + whole[middle + 40 :], b"no such format"):
        path.write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"train\S+ cannot be read as (gzip|zstd|Parquet) \(.+\): fetch"
        ) as caught:
            load_text_dataset("custom", root=path)
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="does not exist: correct its path"):
        load_text_dataset("custom", files=str(tmp_path / f"none{ending}"))


def test_shards_in_a_folder_are_one_split_in_their_order(tmp_path):
    folder = tmp_path / "corpus"
    for number in range(3):
        write(
            folder / f"train-{number:05}-of-00003.jsonl.gz", PLAIN[".jsonl"].replace("Text", f"Text {number}")
        )
    write(folder / "validation_00.txt", "one\n")
    write(folder / "validation_01.txt", "two\n")
    write(folder / "test.txt", "three\n")
    write(folder / "test-00.txt", "four\n")
    write(folder / "notes.md", "no corpus")
    dataset = load_text_dataset("custom", root=folder)
    assert dataset.train.texts == [text.replace("Text", f"Text {n}") for n in range(3) for text in TEXTS]
    assert dataset.validation.texts == ["one", "two"] and dataset.test.texts == ["three"]
    assert f"{folder}/test-00.txt is not read" in dataset.origin and "notes.md" not in dataset.origin
    (folder / "train-00001-of-00003.jsonl.gz").unlink()
    said = r"has 2 of the 3 shards of train.jsonl.gz; number 1 is missing: fetch it"
    with pytest.raises(DataError, match=said):
        load_text_dataset("custom", root=folder)


def test_what_is_left_out_beside_a_known_name_is_said_of_every_corpus(tmp_path):
    write(tmp_path / "train.jsonl", PLAIN[".jsonl"])
    write(tmp_path / "train-00000-of-00002.jsonl", PLAIN[".jsonl"])  # that the other is missing is no matter
    for split in ("valid", "test"):
        write(tmp_path / f"{split}.jsonl", PLAIN[".jsonl"])
    dataset = load_text_dataset("movie_reviews", root=tmp_path)
    assert len(dataset.train) == 40 and f"{tmp_path}/train-00000-of-00002.jsonl is not read" in dataset.origin


def test_shards_of_another_name_are_the_training_texts_of_a_custom_corpus(tmp_path):
    for number in range(2):
        write(tmp_path / f"part-{number:02}.txt", lines(TEXTS[20 * number :][:20]))
    whole = load_text_dataset("custom", root=write(tmp_path / "other" / "a.txt", PLAIN[".txt"]))
    assert split_of(load_text_dataset("custom", root=tmp_path)) == split_of(whole)


def test_patterns_and_folders_are_read_in_the_order_of_their_names(tmp_path):
    for number in (2, 1, 0):
        write(tmp_path / "shards" / f"{number}.txt", lines(TEXTS[10 * number :][:10]))
    write(tmp_path / "shards" / "readme.md", "not a corpus")
    held_out = str(write(tmp_path / "held_out.txt", "one\n"))
    rest = {"validation": held_out, "test": held_out}
    for given in ("shards/*.txt", "shards", ["shards/0.txt", "shards/[12].txt"]):
        dataset = load_text_dataset("custom", root=tmp_path, files={"train": given} | rest)
        assert dataset.train.texts == TEXTS[:30]
    assert len(load_text_dataset("custom", root=tmp_path / "shards" / "*.txt").train) == 28
    for options, said in (
        (
            {"files": {"train": "shards/*.csv"}},
            r"dataset.files.train=.*\*.csv matches no file: correct the pattern",
        ),
        ({"files": {"train": "."}, "root": tmp_path / "empty"}, "has no file whose name ends in .jsonl"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=said):
            load_text_dataset("custom", **{"root": tmp_path} | options)


def test_a_name_with_signs_of_a_pattern_is_a_name(tmp_path):
    path = write(tmp_path / "a[1].txt", lines(TEXTS))
    assert len(load_text_dataset("custom", root=path).train) == 36


def test_many_files_are_described_together(tmp_path):
    for number in range(20):
        write(tmp_path / f"train-{number:02}.txt", f"{TEXTS[number]}\n\n")
    write(tmp_path / "train-20.csv", "words\nthe last one\n")
    files = {"train": [str(tmp_path / "train-*.txt"), str(tmp_path / "train-20.csv")]}
    dataset = load_text_dataset("custom", files=files)
    first, last = tmp_path / "train-00.txt", tmp_path / "train-20.csv"
    assert f"21 files {first} … {last} (21 texts; 20 blank rows left out)" in dataset.origin
    assert f"{last} (1 text; its only column, words, is taken for the text" in dataset.origin
    assert len(dataset.origin) < 1000


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("ending", [".jsonl.gz", ".txt.zst", ".parquet"])
def test_a_shard_that_is_damaged_in_the_middle_is_named(ending, kept, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_cache, "LEAST_BYTES", 0 if kept else 2**30)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    content = ROWS if ending == ".parquet" else PLAIN[f".{ending.split('.')[1]}"]
    folder = tmp_path / "corpus"
    paths = [write(folder / f"train-{number:05}-of-00003{ending}", content) for number in range(3)]
    whole, half = paths[1].read_bytes(), len(paths[1].read_bytes()) // 2
    paths[1].write_bytes(whole[:half] + bytes(40) + whole[half + 40 :])
    with pytest.raises(
        DataError, match=r"train-00001-of-00003\S+ cannot be read as \S+ \(.+\): fetch"
    ) as caught:
        load_text_dataset("custom", root=folder)
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "hub").rglob("*") if path.is_file() and path.suffix != ".lock"]
    paths[1].write_bytes(whole)
    assert len(load_text_dataset("custom", root=folder).train) == 108


@pytest.mark.parametrize("kept", [False, True])
def test_a_shard_with_other_columns_is_named(kept, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_cache, "LEAST_BYTES", 0 if kept else 2**30)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    rows = [{"body": row["text"], "kind": row["kind"]} for row in ROWS]
    for ending in (".jsonl", ".parquet"):
        folder = tmp_path / ending
        for number, content in enumerate([ROWS, rows]):
            lines_of = "".join(f"{json.dumps(row)}\n" for row in content)
            write(folder / f"train-{number}{ending}", content if ending == ".parquet" else lines_of)
        with pytest.raises(
            DataError, match=rf"train-1{ending}.* no column text.*body.*dataset.text_column"
        ) as caught:
            load_text_dataset("custom", root=folder / f"*{ending}")
        assert "\n" not in str(caught.value)


def test_a_pattern_without_files_is_refused_wherever_it_stands(tmp_path):
    for options in (
        {"root": tmp_path / "*.jsonl"},
        {"files": str(tmp_path / "*.jsonl")},
        {"files": [str(tmp_path / "*.jsonl")]},
        {"files": {"train": str(tmp_path / "*.jsonl")}},
    ):
        with pytest.raises(DataError, match=r"matches no file: correct the pattern"):
            load_text_dataset("custom", **options)
