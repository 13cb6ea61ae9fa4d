"""A tokenizer's files are data: no class but a tokenizer, no component without bounds, no id outside the vocabulary."""

import base64
import copy
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
import transformers
from transformers import PreTrainedTokenizerFast

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.shipped import DEFAULT, FOLDER
from ld4lg_fast.checkpoints.tokenizer import read_tokenizer
from ld4lg_fast.errors import CheckpointError, DataError
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.folder_schema import TokenizerSettings
from ld4lg_fast.export.runtime.text_tokenizer import TextTokenizer
from ld4lg_fast.export.runtime.tokenizer_charsmap import charsmap_complaint
from ld4lg_fast.training.autoencoder_model import load_tokenizer as training_tokenizer

SHIPPED = FOLDER / DEFAULT / "autoencoder/tokenizer"
VOCABULARY = 2048
ORIGINAL = json.loads((SHIPPED / "tokenizer.json").read_text())
SETTINGS = TokenizerSettings((0, 1, 2, 3), True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "tokenizer"))


def changed(folder: Path, name: str = "tokenizer_config.json", **values: object) -> Path:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))
    return folder


def refused_by_both(folder: Path, *words: str) -> None:
    """By the run directory's reader and by the exported runtime, with the same clause."""
    with pytest.raises(CheckpointError) as of_run:
        read_tokenizer(folder, VOCABULARY)
    with pytest.raises(RuntimeInputError) as of_runtime:
        TextTokenizer(folder, SETTINGS, VOCABULARY)
    for caught in (of_run, of_runtime):
        for word in ("tokenizer", *words):
            assert word in str(caught.value)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def all_tokenizers() -> list[str]:
    return [name for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast"))]


@pytest.mark.parametrize(
    "name",
    [
        "GPT2Model",
        "RagRetriever",
        "RagTokenizer",
        "AutoProcessor",
        "AutoModel",
        "AutoTokenizer",
        "GenerationConfig",
    ]
    + [
        "BertJapaneseTokenizer",
        "ByT5Tokenizer",
        "TimmBackbone",
        "Trainer",
        "pipeline",
        "utils",
        "os",
        "",
        "../x",
    ],
)
def test_classes_that_are_no_fast_tokenizers_are_refused(folder, name, monkeypatch):
    changed(folder, tokenizer_class=name)
    (folder / "config.json").write_text('{"model_type": "gpt2", "attn_implementation": "owner/kernel"}')
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)  # is not called
    with pytest.raises(CheckpointError, match="tokenizer_class"):
        read_tokenizer(folder)


def test_whatever_class_is_named_is_a_fast_tokenizer_or_refused(folder):
    for name in all_tokenizers():
        changed(folder, tokenizer_class=name)
        try:
            tokenizer = read_tokenizer(folder)
        except CheckpointError:
            continue
        assert isinstance(tokenizer, PreTrainedTokenizerFast), name


@pytest.mark.parametrize(
    "name", ["TokenizersBackend", "PreTrainedTokenizerFast", "PreTrainedTokenizer", "SomebodysTokenizer"]
)
def test_general_classes_read_the_same_ids_and_are_saved_as_they_were(folder, name, tmp_path):
    tokenizer, plain = read_tokenizer(changed(folder, tokenizer_class=name)), read_tokenizer(SHIPPED)
    texts = ["The Eagle is a pub.", "</s> é 😀", ""]
    assert tokenizer(texts)["input_ids"] == plain(texts)["input_ids"]
    tokenizer.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again/tokenizer.json").read_text()) == ORIGINAL


@pytest.mark.parametrize("kind", ["T5Tokenizer", "RobertaTokenizer", "BertTokenizer"])
def test_families_of_language_models_keep_their_class(tmp_path, kind):
    family = getattr(transformers, kind)
    family().save_pretrained(tmp_path / "first")
    tokenizer = read_tokenizer(tmp_path / "first")
    assert type(tokenizer) is family
    tokenizer.save_pretrained(tmp_path / "second")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first, second = (json.loads((tmp_path / place / name).read_text()) for place in ("first", "second"))
        for content in (first, second):  # what transformers notes about the call
            content.pop("is_local", None), content.pop("local_files_only", None)
        assert first == second


def test_a_config_beside_the_tokenizer_is_not_followed(folder):
    (folder / "config.json").write_text(
        '{"model_type": "bert", "tokenizer_class": "GPT2Model", "auto_map": {"AutoTokenizer": ["c.T", "c.T"]}}'
    )
    assert type(read_tokenizer(folder)) is type(read_tokenizer(SHIPPED))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("additional_special_tokens", [f"<{number}>" for number in range(100_000)]),
        ("extra_special_tokens", {f"a{number}": f"<{number}>" for number in range(20_000)}),
        ("extra_ids", 10**9),
        ("offset", 10**9),
        ("vocab_file", "/etc/hostname"),
        ("gguf_file", "x.gguf"),
    ],
)
def test_long_lists_and_files_are_refused_before_the_library_reads_them(folder, name, key, value):
    if not (folder / name).exists():
        (folder / name).write_text("{}")
    changed(folder, name, **{key: value})
    with pytest.raises(CheckpointError, match=key):
        read_tokenizer(folder)


def replace(pattern: dict, content: str) -> dict:
    return {"type": "Replace", "pattern": pattern, "content": content}


A = {"Sequence": {"id": "A", "type_id": 0}}
B = {"Sequence": {"id": "B", "type_id": 0}}


def template(single: list, special: dict) -> dict:
    return {"type": "TemplateProcessing", "single": single, "pair": [A, B], "special_tokens": special}


def special(*ids: int) -> dict:
    return {"<s>": {"id": "<s>", "ids": list(ids), "tokens": ["<s>"] * len(ids)}}


BEGIN = {"SpecialToken": {"id": "<s>", "type_id": 0}}
BOMB = replace({"Regex": "."}, "a" * 16)
COMPONENTS = {
    "an unknown normalizer": ({"normalizer": {"type": "Python", "code": "x"}}, "normalizer.type"),
    "a decoder as normalizer": ({"normalizer": {"type": "WordPiece"}}, "normalizer.type"),
    "no type": ({"pre_tokenizer": {}}, "pre_tokenizer.type"),
    "a list": ({"decoder": []}, "decoder"),
    "a bomb of normalizers": ({"normalizer": {"type": "Sequence", "normalizers": [BOMB] * 6}}, "normalizer"),
    "a bomb of decoders": ({"decoder": {"type": "Sequence", "decoders": [BOMB] * 6}}, "decoder"),
    "a bomb of texts": ({"decoder": replace({"String": "e"}, "e" * 1000)}, "decoder"),
    "a bomb between characters": (
        {"normalizer": {"type": "Sequence", "normalizers": [replace({"Regex": ""}, "x")] * 20}},
        "normalizer",
    ),
    "nothing replaced": ({"normalizer": replace({"String": ""}, "x")}, "normalizer.pattern.String"),
    "a long prefix": ({"normalizer": {"type": "Prepend", "prepend": "x" * 2000}}, "normalizer"),
    "many components": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}] * 100}},
        "pre_tokenizer is 100",
    ),
    "a long expression": ({"normalizer": replace({"Regex": "a" * 10_000}, "")}, "normalizer.pattern.Regex"),
    "many repetitions": (
        {"normalizer": replace({"Regex": "((a{1,1000}){1,1000}){1,1000}"}, "")},
        "repetitions",
    ),
    "no pieces": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pre_tokenizer.length"),
    "a strip below": (
        {"decoder": {"type": "Strip", "content": "T", "start": 2**64 - 1, "stop": 0}},
        "decoder.start",
    ),
    "a strip behind": ({"decoder": {"type": "Strip", "content": "T", "start": 0, "stop": 1}}, "decoder.stop"),
    "another text": ({"post_processor": template([B], {})}, "post_processor.single"),
    "many pieces": ({"post_processor": template([BEGIN] * 100 + [A], special(0))}, "post_processor.single"),
    "ids of templates": ({"post_processor": template([BEGIN, A], special(0, VOCABULARY))}, "post_processor"),
    "huge ids of templates": ({"post_processor": template([BEGIN, A], special(4 * 10**9))}, "post_processor"),
    "ids of BERT": (
        {"post_processor": {"type": "BertProcessing", "sep": ["</s>", 99_999], "cls": ["<s>", 0]}},
        "post_processor.sep",
    ),
    "ids of RoBERTa": (
        {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", VOCABULARY]}},
        "post_processor.cls",
    ),
    "ids in a sequence": (
        {
            "post_processor": {
                "type": "Sequence",
                "processors": [{"type": "BertProcessing", "sep": ["</s>", -1], "cls": ["<s>", 0]}],
            }
        },
        "post_processor.processors.0.sep",
    ),
    "many added tokens": ({"added_tokens": ORIGINAL["added_tokens"] * 5000}, "added_tokens"),
    "ids of added tokens": (
        {"added_tokens": [ORIGINAL["added_tokens"][0] | {"id": VOCABULARY}]},
        "added_tokens.id",
    ),
}


@pytest.mark.parametrize("what", COMPONENTS)
def test_components_and_their_parameters_are_bounded(folder, what, capfd):
    values, word = COMPONENTS[what]
    refused_by_both(changed(folder, "tokenizer.json", **values), word)
    assert "panicked" not in capfd.readouterr().err


MODELS = {
    "dropout": ({"dropout": 0.5}, "model.dropout"),
    "every merge dropped": ({"dropout": 1.0}, "model.dropout"),
    "another type": ({"type": "Code"}, "model.type"),
    "no vocabulary": ({"vocab": None}, "model.vocab"),
    "a long prefix": ({"continuing_subword_prefix": "#" * 10_000}, "model.continuing_subword_prefix"),
}


@pytest.mark.parametrize("what", MODELS)
def test_models_are_bounded(folder, what):
    values, word = MODELS[what]
    refused_by_both(changed(folder, "tokenizer.json", model=ORIGINAL["model"] | values), word)


@pytest.mark.parametrize("number", [VOCABULARY, 3000, 2**31, 2**32 - 1])
def test_ids_outside_the_vocabulary_are_refused(folder, number):
    model = copy.deepcopy(ORIGINAL["model"])
    model["vocab"]["Ġthe"] = number
    refused_by_both(changed(folder, "tokenizer.json", model=model), str(number), "Ġthe", "2048")


def charsmap(unit: int = 0, size: int = 1024, texts: bytes = b"b\0") -> str:
    """A trie of one block that replaces "a" by "b", with ``unit`` for the first step where it is given."""
    units = [0] * 256
    units[0] = unit or (1 << 10)  # to the block's byte 1
    units[1 ^ ord("a")] = ord("a") | 1 << 8 | 2 << 10
    units[1 ^ ord("a") ^ 2] = 1 << 31
    return base64.b64encode(struct.pack("<I256I", size, *units) + texts).decode()


TABLES = {
    "of 4 GB": "/////wAAAAA=",
    "of nothing": "",
    "of an empty trie": "AAAAAA==",
    "no base64": "?",
    "a number": 3,
    "larger than it is": charsmap(size=2048),
    "not of blocks": charsmap(size=1020),
    "that leads out": charsmap(unit=5000 << 10),
    "of no texts": charsmap(unit=1 << 8 | 1 << 31 | 7).replace("A", "/"),
    "of long texts": charsmap(texts=b"b" * 10_000 + b"\0"),
    "not UTF-8": charsmap(texts=b"\xff\0"),
    "that begins within a character": charsmap(texts="é".encode()[1:] + b"\0"),
}


@pytest.mark.parametrize("what", TABLES)
def test_tables_of_characters_are_checked_before_memory_is_taken(folder, what):
    value = {"type": "Precompiled", "precompiled_charsmap": TABLES[what]}
    refused_by_both(changed(folder, "tokenizer.json", normalizer=value), "precompiled_charsmap")


def test_a_whole_table_is_read(folder):
    assert charsmap_complaint(charsmap()) is None
    value = {"type": "Precompiled", "precompiled_charsmap": charsmap()}
    tokenizer = read_tokenizer(changed(folder, "tokenizer.json", normalizer=value), VOCABULARY)
    assert tokenizer.decode(tokenizer("banal")["input_ids"], skip_special_tokens=True) == "bbnbl"


def word_model(kind: str) -> dict:
    extra = (
        {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100} if kind == "WordPiece" else {}
    )
    return {"type": kind, "unk_token": "missing", "vocab": ORIGINAL["model"]["vocab"], **extra}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The model that ships without its fingerprint, its large files as links."""
    folder = tmp_path / "run"
    shutil.copytree(FOLDER / DEFAULT, folder, copy_function=os.symlink)
    (folder / fingerprint.FILE).unlink()
    shutil.rmtree(folder / "autoencoder/tokenizer")
    shutil.copytree(SHIPPED, folder / "autoencoder/tokenizer")
    return folder


FAILING = {
    "words that it does not know": ({"model": word_model("WordLevel")}, "qqqq"),
    "pieces that it does not know": ({"model": word_model("WordPiece")}, "日本"),
    "an expression without end": (
        {
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": "(x+x+)+y"},
                "behavior": "Isolated",
                "invert": False,
            }
        },
        "x" * 60,
    ),
}


@pytest.mark.parametrize("what", FAILING)
def test_a_text_that_the_tokenizer_fails_at_is_one_sentence(run, what):
    values, text = FAILING[what]
    changed(run / "autoencoder/tokenizer", "tokenizer.json", **values)
    pipe = TextDiffusionPipeline.from_pretrained(run)
    uses = (
        lambda: pipe.encode([text]),
        lambda: pipe.vary(text, 1, num_inference_steps=2),
        lambda: pipe.infill(f"{text} ___", 1, best_of=1, num_inference_steps=2),
    )
    for use in uses:
        with pytest.raises(DataError, match="The tokenizer cannot encode") as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_training_that_goes_on_makes_such_a_tokenizer_again(folder):
    assert training_tokenizer(folder) is not None
    assert training_tokenizer(changed(folder, tokenizer_class="GPT2Model")) is None
    assert training_tokenizer(changed(folder, tokenizer_class="AutoModel")) is None
