"""Bad corpora and options: each one sentence that names the value and what to do, in a moment."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError

from ld4lg_fast.data import load_from_config, load_text_dataset
from ld4lg_fast.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """A working directory without corpora, and a hub that nobody answers for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LD4LG_DATASETS", raising=False)

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", tmp_path / "modules")


def custom(path, content, **options):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return lambda: load_text_dataset("custom", root=path, **options)


BAD_FILES = {
    "empty.txt": (b"", "has 0 texts, too few"),
    "blank.txt": (b" \n\n", "has 0 texts, too few"),
    "two.txt": (b"a\nb\n", "has 2 texts, too few to hold out validation and test texts: give at least 3"),
    "empty.jsonl": (b"", "empty.jsonl is empty: give a file with at least one text"),
    "header.csv": (b"text\n", "header.csv is empty"),
    "latin.txt": ("café".encode("latin-1"), r"latin.txt is not UTF-8 text \(byte 3\)"),
    "broken.jsonl": (b'{"text": "a"}\n{"text"\n', "line 2 of .*broken.jsonl is not JSON"),
    "broken.json": (b'[\n{"text": "a"},\n{"text"}]', "line 3 of .*broken.json is not JSON"),
    "numbers.jsonl": (b"5\n", "line 1 of .* is neither an object nor a text"),
    "ragged.csv": (b"id,text\n1,a\n2,b,c\n", r"line 3 of .* as many columns as the first line \(2\)"),
    "short.csv": (b"id,text\n1\n", "line 2 of .* as many columns"),
    "nul.pdf": (b"%PDF", "nul.pdf cannot be read as texts: its name must end in .jsonl, .json"),
    "columns.csv": (
        b"id,body\n1,a\n",
        r"has no column text, its columns are id, body: .* dataset.text_column=",
    ),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', "line 2 of .* has no text in column text"),
    "holes.jsonl": (b'{"text": "a"}\n{"id": 1}\n', "line 2 of .* has no text in column text"),
    "number.jsonl": (b'{"text": 7}\n', "line 1 of .* has 7 in column text where a text should be"),
    "half.jsonl": (b'{"text": "a\\ud83d"}\n', "line 1 of .* holds half a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path, name):
    content, message = BAD_FILES[name]
    with pytest.raises(DataError, match=message) as raised:
        custom(tmp_path / name, content)()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("0.5", "line 2 of .* the label 0.5, which is neither a name nor an integer"),
        ("null", "line 2 of .* has no label in column label"),
        ('" "', "the label ' ', which is blank"),
        ("[1]", r"the label \[1\], which is neither name nor number"),
        ("NaN", "the label nan, which is neither a name nor an integer"),
    ],
)
def test_bad_labels_of_custom_texts(tmp_path, label, message):
    rows = f'{{"text": "a", "label": 1}}\n{{"text": "b", "label": {label}}}\n'
    with pytest.raises(DataError, match=message):
        custom(tmp_path / "a.jsonl", rows, label_column="label")()


def known(root, row, **options):
    for split in ("train", "validation", "test"):
        (root / f"{split}.jsonl").write_text(json.dumps(row) + "\n")
    return load_text_dataset(root=root, **options)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("sst", {"sentence": "a", "label": 1.5}, "the label 1.5, which is no score between 0 and 1"),
        ("sst", {"sentence": "a", "label": "good"}, "the label 'good', which is no score"),
        ("ag_news", {"text": "a", "label": 4}, "the label 4, which is not an integer from 0 to 3"),
        ("ag_news", {"text": "a", "label": 0.5}, "the label 0.5, which is not an integer from 0 to 3"),
        ("qqp", {"trg": "a"}, "has no column src, .* dataset.source_column="),
        ("qqp", {"trg": " ", "src": "s"}, "dataset=qqp has only blank train texts"),
        ("qqp", {"trg": "t", "src": " "}, "dataset=qqp has only blank train texts"),
        ("xsum", {"text": "a", "document": "b"}, "has no column summary, its columns are text, document"),
    ],
)
def test_bad_rows_of_known_corpora(tmp_path, name, row, message):
    with pytest.raises(DataError, match=message):
        known(tmp_path, row, name=name)


def test_labels_and_sources_that_are_missing_are_missed_when_asked_for(tmp_path):
    dataset = known(tmp_path, {"sentence": "a"}, name="sst")
    assert dataset.num_classes is None
    with pytest.raises(DataError, match="dataset=sst has no class labels .* dataset.label_column="):
        dataset.require_labels()
    with pytest.raises(DataError, match="dataset=sst has no source texts .* dataset.source_column="):
        dataset.require_sources()
    with pytest.raises(DataError, match="has no column label"):
        known(tmp_path, {"sentence": "a"}, name="sst", label_column="label")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "e2f"}, r"there is no dataset=e2f \(did you mean e2e\?\): choose one of e2e, roc"),
        ({"name": "custom"}, "dataset=custom needs texts: set dataset.root"),
        ({"name": "custom", "files": {"exam": "a.txt"}}, "dataset.files.exam is no split"),
        ({"name": "custom", "files": {"train": None}}, "dataset=custom needs texts"),
        ({"name": "custom", "hub": "a/b", "root": "."}, "dataset.hub=a/b excludes dataset.root"),
        ({"name": "custom", "hub": {"name": "a/b"}}, "must be owner/name, or have path"),
        ({"name": "demo", "num_examples": 0}, "dataset.num_examples=0 leaves no texts"),
        ({"name": "e2e", "num_examples": 5}, "dataset.num_examples=5 is for dataset=demo"),
        ({"name": "e2e", "limit": -1}, "dataset.limit=-1 leaves no texts"),
        ({"name": "qqp", "train_fallback": "train"}, "dataset.train_fallback 'train'; choose one of val"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        load_text_dataset(**options)


def test_a_wrong_number_of_classes_is_refused(tmp_path):
    known(tmp_path, {"sentence": "a", "label": 1}, name="sst")
    with pytest.raises(ConfigError, match="dataset.num_classes=3, but dataset=sst has 2 classes"):
        load_from_config({"name": "sst", "root": str(tmp_path), "num_classes": 3, "max_len": 64})


def test_an_unknown_option_is_named():
    with pytest.raises(ConfigError, match="there is no dataset.colour: the options are name, root, files"):
        load_from_config({"name": "demo", "colour": "red", "max_len": 64})


def test_missing_files_and_splits(tmp_path):
    with pytest.raises(DataError, match="dataset.root=none does not exist"):
        load_text_dataset("e2e", root="none")
    with pytest.raises(DataError, match=r"has no file that dataset=e2e knows: looked for train: trainset, "):
        load_text_dataset("e2e", root=tmp_path)
    with pytest.raises(DataError, match="the file .*gone.txt does not exist"):
        load_text_dataset("custom", files="gone.txt")
    (tmp_path / "trainset.csv").write_text("mr,ref\na,b\n")
    with pytest.raises(DataError, match="no validation and no test texts in .*: add files of these names"):
        load_text_dataset("e2e", root=tmp_path)
    with pytest.raises(DataError, match="is a file: give the folder of dataset=e2e"):
        load_text_dataset("e2e", root=tmp_path / "trainset.csv")
    (tmp_path / "src1_train.txt").write_text("a text without meta\n")
    (tmp_path / "trainset.csv").unlink()
    with pytest.raises(DataError, match=r"line 1 of .* has no \|\|: write each line as meta\|\|text"):
        load_text_dataset("e2e", root=tmp_path)
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "test.txt").write_text("a\n")
    with pytest.raises(DataError, match="dataset=custom has no training texts in"):
        load_text_dataset("custom", files={"test": str(tmp_path / "only" / "test.txt")})


def test_an_unreachable_hub_is_asked_once_and_the_message_says_how_to_go_on(monkeypatch):
    load, offline = datasets.load_dataset, []

    def watched(*args, **kwargs):
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return load(*args, **kwargs)

    monkeypatch.setattr(datasets, "load_dataset", watched)
    with pytest.raises(
        DataError, match="could not be reached for a/b .* dataset.root=..., or use dataset=demo"
    ):
        load_text_dataset("custom", hub="a/b")
    with pytest.raises(DataError, match="found in none of data/e2e, .*, and the hub could not be reached"):
        load_text_dataset("e2e")
    # Only the cache is looked at, and later calls may go online again.
    assert offline == [True, True] and datasets.config.HF_HUB_OFFLINE is False


def test_corpora_that_are_not_on_the_hub_say_where_they_come_from():
    with pytest.raises(
        DataError, match="dataset=roc was found in none of .*, and it is not on the hub .*request"
    ):
        load_text_dataset("roc")


def test_local_texts_need_neither_hub_client_nor_transformers():
    code = (
        "import sys; from ld4lg_fast.data import load_text_dataset; "
        "load_text_dataset('demo', num_examples=5); "
        "print(*{'datasets', 'huggingface_hub', 'transformers', 'tokenizers'} & set(sys.modules))"
    )
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr


def test_an_unknown_repository_is_named(monkeypatch):
    def unknown(*args, **kwargs):
        raise HFValidationError("bad name")

    monkeypatch.setattr(HfApi, "dataset_info", unknown)
    with pytest.raises(DataError, match="the hub has no dataset a/b/c"):
        load_text_dataset("custom", hub="a/b/c")


def test_a_hub_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "repository").mkdir()
    with pytest.raises(DataError, match="repository cannot be read from the hub"):
        load_text_dataset("custom", hub=str(tmp_path / "repository"))
