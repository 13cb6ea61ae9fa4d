"""Corpora: the real files, every format, published splits, and one clear sentence for every bad input."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from omegaconf import OmegaConf

from ld4lg_fast.data import (
    DATASETS,
    TextSplit,
    clean_up_spaces,
    load_from_config,
    load_text_dataset,
)
from ld4lg_fast.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "datasets"
CONFIGS = REPOSITORY / "ld4lg_fast" / "configs" / "dataset"


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A working directory without corpora, and no hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LD4LG_DATASETS", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return tmp_path


def write(path, rows, kind="jsonl"):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "jsonl":
        rows = [json.dumps(row) for row in rows]
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def write_splits(folder, rows, splits=("train", "validation", "test"), ending="jsonl"):
    for split in splits:
        write(folder / f"{split}.{ending}", rows)
    return folder


# --- formats ---


FORMATS = {
    "a.txt": "one text\n\n  \nanother\u2028text \nthe third\n",
    "a.jsonl": '{"text": "one text"}\n\n{"text": " "}\n{"text": "another\\u2028text "}\n["the third"]\n',
    "a.json": '[{"text": "one text"}, "another\\u2028text", {"text": "the third"}]',
    "lines.json": '["one text"]\n["another\\u2028text"]\n["the third"]\n',
    "a.csv": 'id,text\n1,one text\n2,"another\u2028text"\n3,the third\n',
    "a.tsv": "id\ttext\n1\tone text\n2\tanother\u2028text\n3\tthe third\n",
    "only.csv": "review\none text\nanother\u2028text\nthe third\n",
    "bom.csv": "\ufefftext,id\none text,1\nanother\u2028text,2\nthe third,3\n",
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_texts(tmp_path, name):
    (tmp_path / name).write_text(FORMATS[name], encoding="utf-8")
    dataset = load_text_dataset("custom", root=tmp_path / name)
    texts = [text for split in (dataset.train, dataset.validation, dataset.test) for text in split.texts]
    assert sorted(texts) == ["another\u2028text", "one text", "the third"]
    assert dataset.class_names is None and dataset.train.labels is None and dataset.train.sources is None


def test_csv_fields_may_hold_separators_quotes_and_line_breaks(tmp_path):
    (tmp_path / "a.csv").write_text('text\n"a, ""b""\nc"\nd\ne\n')
    dataset = load_text_dataset(
        "custom", files={split: str(tmp_path / "a.csv") for split in ("train", "val", "test")}
    )
    assert dataset.train.texts == ['a, "b"\nc', "d", "e"]


def test_e2e_reads_the_csv_and_the_meta_text_format_alike(tmp_path):
    texts = ["Zizzi , a pub , isn 't here .", "It 's a pub || really ."]
    for split, csv_name, txt_name in (
        ("train", "trainset.csv", "src1_train.txt"),
        ("validation", "devset.csv", "src1_valid.txt"),
        ("test", "testset_w_refs.csv", "src1_test.txt"),
    ):
        write(tmp_path / "csv" / csv_name, ["mr,ref", *(f'name[{split}],"{text}"' for text in texts)], "csv")
        write(tmp_path / "txt" / txt_name, [f"name : {split}||{text}" for text in texts] + [""], "txt")
    read = [load_text_dataset("e2e", root=tmp_path / kind) for kind in ("csv", "txt")]
    assert read[0].train == read[1].train and read[0].test == read[1].test
    assert read[0].validation.texts == ["Zizzi, a pub, isn 't here.", "It's a pub || really."]


def test_clean_up_joins_what_a_word_tokeniser_split():
    spaced = "He does n't know , I 'm sure ! We 've seen 'em ' re ' ? They 're Ann 's ."
    assert clean_up_spaces(spaced) == "He doesn't know, I'm sure! We've seen 'em're '? They're Ann's."


# --- the real files ---

# Sizes of train, validation and test, and how the first text of each begins, with its label.
REAL = {
    "e2e": (
        (42061, 4672, 4693),
        ("The Vaults pub near Café Adriatic has", None),
        ("There is a place in the city centre, Ali", None),
        ("A coffee shop in the city centre area ca", None),
    ),
    "sst": (
        (8544, 1101, 2210),
        ("The Rock is destined to be the 21st Century's new", 1),
        ("It's a lovely film with lovely performances", 1),
        ("Effective but too-tepid biopic", 1),
    ),
    "ag_news": (
        (9001, 1000, 7600),
        ("Top lenders compete for your mortgage, r", 2),
        ("BERLIN -- SAP AG, the German business ma", 2),
        ("Unions representing workers at Turner   ", 2),
    ),
    "roc": (
        (3600, 1000, 400),
        ("Gary tripped on a football player's shoe", None),
        ("In my fourth grade social studies class ", None),
        ("Sean was living in Oregon. Marijuana had", None),
    ),
    "qqp": (
        (1844, 204, 2500),
        ("How are capitalism and communism different", None),
        ("Why do I feel like I'm tired of life?", None),
        ("What are some best business ideas with mini", None),
    ),
}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real corpora do not lie beside this checkout")
@pytest.mark.parametrize("name", REAL)
def test_real_corpora_have_the_known_sizes_and_texts(name):
    config = OmegaConf.load(CONFIGS / f"{name}.yaml")
    config.root = str(SHARED / name)
    dataset = load_from_config(config)
    sizes, *firsts = REAL[name]
    splits = (dataset.train, dataset.validation, dataset.test)
    assert tuple(map(len, splits)) == sizes
    for split, (beginning, label) in zip(splits, firsts, strict=True):
        assert split.texts[0].startswith(beginning)
        assert (split.labels and split.labels[0]) == label
        assert (split.sources is not None) == config.seq2seq
    assert dataset.num_classes == config.num_classes
    assert str(SHARED / name) in dataset.origin


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real corpora do not lie beside this checkout")
def test_real_paraphrases_and_sentiment_make_sense():
    qqp = load_text_dataset("qqp", root=SHARED, train_fallback="validation").test
    pairs = dict(zip(qqp.sources, qqp.texts, strict=True))
    assert pairs["How can I be a good geologist?"] == "What should I do to be a great geologist?"
    sst = load_text_dataset("sst", root=SHARED)
    assert sst.class_names == ("negative", "positive")
    labels = dict(zip(sst.validation.texts, sst.validation.labels, strict=True))
    assert labels["A warm, funny, engaging film."] == 1
    assert abs(np.mean(sst.train.labels) - 5234 / 8544) < 1e-9


# --- published splits ---


def test_roc_holds_out_the_published_stories(tmp_path):
    for name, count in (("roc_train", 30), ("roc_valid", 1200)):
        write(tmp_path / f"{name}.json", [json.dumps([f'{i} said "hi" .']) for i in range(count)], "txt")
    dataset = load_text_dataset("roc", root=tmp_path)
    shuffled = datasets.Dataset.from_dict({"i": range(1200)}).shuffle(seed=42)["i"]
    held_out = dataset.validation.texts + dataset.test.texts
    assert held_out == [f'{i} said "hi" .' for i in shuffled] and len(dataset.validation) == 1000
    train = datasets.Dataset.from_dict({"i": range(30)}).shuffle(seed=42)["i"]
    assert dataset.train.texts == [f'{i} said "hi" .' for i in train]


def test_ag_news_holds_out_the_published_validation_rows(tmp_path):
    for split, count in (("train", 1300), ("test", 5)):
        write(tmp_path / f"{split}.jsonl", [{"text": f"news {i}", "label": i % 4} for i in range(count)])
    dataset = load_text_dataset("ag_news", root=tmp_path)
    expected = datasets.Dataset.from_dict({"i": range(1300)}).train_test_split(test_size=1000, seed=42)
    assert dataset.validation.texts == [f"news {i}" for i in expected["test"]["i"]]
    assert dataset.train.texts == [f"news {i}" for i in expected["train"]["i"]]
    assert dataset.validation.labels == [i % 4 for i in expected["test"]["i"]]


@pytest.mark.parametrize("pair", ["de-en", "en-de"])
def test_wmt14_translates_in_the_named_direction(tmp_path, pair):
    rows = [{"de": f"Satz {i} .", "en": f"Sentence {i} ."} for i in range(20)]
    write_splits(tmp_path / "flat", rows)
    write_splits(tmp_path / "nested", [{"translation": row} for row in rows])
    flat, nested = (load_text_dataset(f"wmt14-{pair}", root=tmp_path / kind) for kind in ("flat", "nested"))
    order = datasets.Dataset.from_dict({"i": range(20)}).shuffle(seed=42)["i"]
    english, german = [f"Sentence {i}." for i in order], [f"Satz {i}." for i in order]
    texts, sources = (english, german) if pair == "de-en" else (german, english)
    assert flat.train == nested.train == TextSplit(texts, None, sources)


def test_xsum_takes_the_summary_from_the_document(tmp_path):
    write_splits(tmp_path, [{"id": "1", "document": "Long , long .", "summary": "Short ."}])
    assert load_text_dataset("xsum", root=tmp_path).test == TextSplit(["Short."], None, ["Long, long."])


def test_a_missing_training_file_is_replaced_only_on_request(tmp_path):
    rows = [{"src": f"q{i}", "trg": f"p{i}"} for i in range(40)]
    write_splits(tmp_path, rows, splits=("valid", "test"))
    with pytest.raises(
        DataError, match=r"no train texts .* \(train: train\), or set dataset.train_fallback="
    ):
        load_text_dataset("qqp", root=tmp_path)
    dataset = load_text_dataset("qqp", root=tmp_path, train_fallback="validation")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (36, 4, 40)
    assert set(dataset.train.texts).isdisjoint(dataset.validation.texts)
    assert "train: 36 of the validation texts" in dataset.origin


# --- custom corpora ---


def test_one_file_is_split_by_its_seed(tmp_path):
    path = write(tmp_path / "a.txt", [f"text {i}" for i in range(200)], "txt")
    first, again, other = (load_text_dataset("custom", root=path, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.test != other.test
    parts = [first.train.texts, first.validation.texts, first.test.texts]
    assert [len(part) for part in parts] == [180, 10, 10]
    assert sorted(sum(parts, [])) == sorted(f"text {i}" for i in range(200))
    assert "validation and test: 10 of the training texts each, chosen with seed 1" in first.origin


def test_a_folder_gives_the_splits_that_it_has(tmp_path):
    write(tmp_path / "two" / "train.txt", [f"a{i}" for i in range(40)], "txt")
    write(tmp_path / "two" / "dev.jsonl", [{"text": "b"}])
    dataset = load_text_dataset("custom", root=tmp_path / "two")
    assert (len(dataset.train), dataset.validation.texts, len(dataset.test)) == (38, ["b"], 2)
    write(tmp_path / "one" / "poems.txt", ["x", "y", "z"], "txt")
    assert len(load_text_dataset("custom", root=tmp_path / "one").train) == 1


def test_columns_are_taken_as_named(tmp_path):
    rows = [{"q": f"q{i}", "a": f"a{i}", "mood": mood} for i, mood in enumerate(["sad", "glad", "sad"])]
    columns = {"text_column": "a", "source_column": "q", "label_column": "mood"}
    dataset = load_text_dataset("custom", root=write_splits(tmp_path, rows), **columns)
    assert dataset.train == TextSplit(["a0", "a1", "a2"], [1, 0, 1], ["q0", "q1", "q2"])
    assert dataset.class_names == ("glad", "sad")
    dataset.require_labels()
    dataset.require_sources()


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        ([10, 2, 10], ("2", "10"), [1, 0, 1]),
        (["10", "2", "-1"], ("-1", "2", "10"), [2, 1, 0]),
        ([True, False, 1.0], ("0", "1"), [1, 0, 1]),
    ],
)
def test_label_values_become_indices_in_their_order(tmp_path, values, names, labels):
    rows = [{"text": "x", "label": value} for value in values]
    dataset = load_text_dataset("custom", root=write_splits(tmp_path, rows), label_column="label")
    assert (dataset.class_names, dataset.train.labels) == (names, labels)


def test_limit_keeps_the_first_texts_of_each_split(tmp_path):
    root = write_splits(tmp_path, [{"text": f"t{i}", "label": i % 2} for i in range(9)])
    dataset = load_text_dataset("custom", root=root, label_column="label", limit=2)
    assert dataset.train == dataset.test == TextSplit(["t0", "t1"], [0, 1])


# --- where corpora are found ---


def test_folders_are_searched_in_the_documented_order(nowhere, monkeypatch):
    (nowhere / "project").mkdir()
    monkeypatch.chdir(nowhere / "project")
    monkeypatch.setenv("LD4LG_DATASETS", str(nowhere / "mine"))
    for folder in ("../shared/datasets", "datasets", "data", str(nowhere / "mine")):
        write_splits(nowhere / "project" / folder / "qqp", [{"src": "s", "trg": folder}])
        assert load_text_dataset("qqp").train.texts == [folder]


def test_a_hub_name_may_be_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"sentence": f"It 's {i} .", "label": i / 10} for i in range(11)]
    write_splits(tmp_path / "hub", rows, splits=("train", "dev", "test"))
    dataset = load_text_dataset("sst", hub={"path": str(tmp_path / "hub")})
    assert dataset.train.texts[:2] == ["It's 0.", "It's 1."]
    assert dataset.validation.labels == [0] * 5 + [1] * 6


def test_every_dataset_has_a_config_that_loads(nowhere):
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(DATASETS)
    for name, spec in DATASETS.items():
        config = OmegaConf.load(CONFIGS / f"{name}.yaml")
        assert config.name == name and config.seq2seq == bool(spec.source)
        assert config.num_classes == (spec.class_names and len(spec.class_names))
        if name == "demo":
            config.num_examples = 30
        elif name == "custom":
            config.files.train = str(write(nowhere / "a.txt", ["x", "y", "z"], "txt"))
        else:
            row = {
                "text": "t",
                spec.text[0]: "t",
                "label": 1,
                "src": "s",
                "document": "s",
                "de": "d",
                "en": "e",
            }
            config.root = str(write_splits(nowhere / name, [row]))
        assert len(load_from_config(config).train) == (30 if name == "demo" else 1)
