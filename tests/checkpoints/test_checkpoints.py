"""Run directories that somebody else wrote: every file is checked before anything is made of it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.run_config import read_run_config, resolved
from ld4lg_fast.checkpoints.shipped import DEFAULT, FOLDER
from ld4lg_fast.errors import CheckpointError

SHIPPED = FOLDER / DEFAULT
LM = "autoencoder/language_model"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The model that ships without its fingerprint, its large files as links."""
    folder = tmp_path / "run"
    shutil.copytree(SHIPPED, folder, copy_function=os.symlink)
    (folder / fingerprint.FILE).unlink()
    return folder


def change(path: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.unlink()
    path.write_text(json.dumps(content))


def refused(run: Path, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        TextDiffusionPipeline.from_pretrained(run)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [10**9, -1, 2048, [3, 100_000], [2, -5], "2", 2.0, True, []])
@pytest.mark.parametrize("name", ["eos_token_id", "forced_eos_token_id", "forced_bos_token_id"])
def test_token_ids_outside_the_vocabulary_are_refused(run, name, value):
    change(run / LM / "generation_config.json", lambda options: options.update({name: value}))
    refused(run, name)


@pytest.mark.parametrize(
    "name", ["eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id"]
)
def test_token_ids_of_the_config_are_checked_where_no_generation_config_replaces_them(run, name):
    (run / LM / "generation_config.json").unlink()
    change(run / LM / "config.json", lambda config: config.update({name: 5000}))
    refused(run, name, "0 to 2047")


def test_a_model_without_a_first_token_is_refused(run):
    for text in ("{}", '{"eos_token_id": 2}'):
        (run / LM / "generation_config.json").unlink()
        (run / LM / "generation_config.json").write_text(text)
        refused(run, "decoder_start_token_id")


VALUES = (None, "text", [1], {"a": 1}, True, 10**30, -1, 1.5, [])
FILES = {
    "autoencoder/autoencoder.json": ("max_len", "format", "perceiver"),
    "denoiser/config.json": ("recipe", "denoiser", "format"),
    "statistics.json": ("token_lengths", "num_train_texts"),
    "decoding.json": ("strategy", "top_p", "num_beams", "temperature", "top_k"),
    f"{LM}/config.json": ("d_model", "decoder_layers", "decoder_attention_heads", "vocab_size", "model_type"),
}
ACCEPTED = {
    ("autoencoder/autoencoder.json", "perceiver", "None"),
    ("statistics.json", "num_train_texts", "None"),
}
ACCEPTED |= {("statistics.json", "token_lengths", "None")}


@pytest.mark.parametrize(("file", "key"), [(file, key) for file, keys in FILES.items() for key in keys])
def test_values_of_another_type_or_size_are_refused(run, file, key):
    original = json.loads((run / file).read_text())
    for value in VALUES:
        if value == original[key] or (file, key, repr(value)) in ACCEPTED:
            continue
        if (value, key) == (1.5, "temperature"):
            continue
        change(run / file, lambda content, value=value: content.update({key: value}))
        refused(run)
    change(run / file, lambda content: content.pop(key))
    refused(run, key)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "text",
    ["", "[" * 100_000, '{"a": 1', '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', "\xff", "[]", "1"],
)
def test_what_is_no_json_object_is_refused(run, file, text):
    (run / file).unlink()
    (run / file).write_bytes(text.encode("latin-1"))
    refused(run, Path(file).name)


@pytest.mark.parametrize(
    ("file", "section", "key"),
    [
        ("denoiser/config.json", "denoiser", "depth"),
        ("denoiser/config.json", "denoiser", "dim"),
        ("autoencoder/autoencoder.json", "perceiver", "depth"),
        (f"{LM}/config.json", None, "decoder_layers"),
        (f"{LM}/config.json", None, "vocab_size"),
        (f"{LM}/config.json", None, "num_labels"),
        (f"{LM}/config.json", None, "hidden_size"),
    ],
)
def test_sizes_are_compared_with_the_weights_before_memory_is_taken(run, file, section, key):
    original = json.loads((run / file).read_text())
    original = (original[section] if section else original).get(key)
    for size in (2, 500, 60_000, 10**9):
        change(run / file, lambda c, size=size: (c[section] if section else c).update({key: size}))
        if size != original and not (key == "num_labels" and size < 10_000):
            refused(run)


def test_lengths_that_would_fill_the_memory_are_refused(run):
    for length in ("3000000000", "70", "-1", "x", "01"):
        change(run / "statistics.json", lambda c, length=length: c.update(token_lengths={length: 1}))
        refused(run, "")


WEIGHTS = (f"{LM}/model.safetensors", "autoencoder/perceiver.safetensors", "denoiser/model.safetensors")


def _largest(tensors: dict) -> str:
    return max(tensors, key=lambda name: tensors[name].numel())


def _int8(t: dict) -> None:
    t[_largest(t)] = t[_largest(t)].to(torch.int8)


def _not_finite(t: dict) -> None:
    t[_largest(t)].view(-1)[7] = float("nan")


def _infinite(t: dict) -> None:
    t[_largest(t)].view(-1)[-1] = float("inf")


CHANGES: dict[str, Callable[[dict], object]] = {
    "is missing": lambda t: t.pop(_largest(t)),
    "has no place": lambda t: t.update(stray=torch.zeros(2)),
    "has the shape": lambda t: t.update({_largest(t): torch.zeros(3, 5)}),
    "is stored as I8": _int8,
    "not finite": _not_finite,
    "are not finite": _infinite,
}


@pytest.mark.parametrize("message", CHANGES)
@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_are_loaded_strictly(run, file, message):
    tensors = load_file(run / file)
    name = _largest(tensors)
    CHANGES[message](tensors)
    (run / file).unlink()
    save_file(tensors, run / file)
    refused(run, message, "stray" if message == "has no place" else name, Path(file).name)


def test_a_file_of_another_run_is_refused(tmp_path):
    """Sizes are equal and each file is whole; only the fingerprint tells that they do not belong together."""
    pipe = TextDiffusionPipeline.from_pretrained()
    other, run = tmp_path / "other", tmp_path / "run"
    pipe.save_pretrained(run)
    with torch.no_grad():
        for parameter in (*pipe.model.parameters(), *pipe.autoencoder.parameters()):
            parameter.mul_(1.01)
    pipe.save_pretrained(other)
    TextDiffusionPipeline.from_pretrained(other)
    for name in WEIGHTS:
        kept = (run / name).read_bytes()
        shutil.copyfile(other / name, run / name)
        refused(run, name, "not the file that this run was saved with")
        (run / name).write_bytes(kept)
    for path in [path for path in run.rglob("*.*") if path.is_file() and path.name != fingerprint.FILE]:
        path.rename(tmp_path / "aside")
        refused(run, str(run))
        (tmp_path / "aside").rename(path)
    (run / LM / "adapter_config.json").write_text("{}")
    refused(run, "adapter_config.json", "is no file of this run")


def test_an_interrupted_save_leaves_no_fingerprint_of_half_a_run(tmp_path, monkeypatch):
    pipe = TextDiffusionPipeline.from_pretrained()
    pipe.save_pretrained(tmp_path)
    assert (tmp_path / fingerprint.FILE).exists()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(pipe.model), "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pipe.save_pretrained(tmp_path)
    assert not (tmp_path / fingerprint.FILE).exists()


def test_a_run_without_a_fingerprint_is_read_with_one_line(run, caplog):
    TextDiffusionPipeline.from_pretrained(run)
    assert [record.getMessage() for record in caplog.records if "fingerprint.json" in record.getMessage()]


@pytest.mark.parametrize("kind", ["fifo", "directory", "dangling", "device"])
@pytest.mark.parametrize(
    "file",
    ["autoencoder/autoencoder.json", "statistics.json", "decoding.json", *WEIGHTS, f"{LM}/config.json"],
)
def test_only_regular_files_are_opened(run, file, kind):
    path = run / file
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.with_name("nowhere"))
    refused(run)


CODE = "raise SystemExit('code of the folder ran')"


@pytest.mark.parametrize(
    ("file", "addition"),
    [
        (
            f"{LM}/config.json",
            {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForSeq2SeqLM": "evil.Model"}},
        ),
        (f"{LM}/config.json", {"attn_implementation": "kernels-community/flash-attn"}),
        (f"{LM}/config.json", {"_attn_implementation": "owner/kernel"}),
        (f"{LM}/config.json", {"quantization_config": {"quant_method": "gptq", "bits": 4}}),
        (f"{LM}/config.json", {"transformers_weights": "../../../denoiser/model.safetensors"}),
        (f"{LM}/config.json", {"fusion_config": {}}),
        (
            "autoencoder/tokenizer/tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}},
        ),
        ("autoencoder/tokenizer/tokenizer_config.json", {"tokenizer_file": "/etc/hostname"}),
    ],
)
def test_code_from_data_is_refused(run, file, addition):
    change(run / file, lambda content: content.update(addition))
    ((run / file).parent / "evil.py").write_text(CODE)
    refused(run, next(iter(addition)))


def test_a_python_file_beside_the_weights_is_not_run(run):
    for folder in (LM, "autoencoder/tokenizer", "denoiser"):
        (run / folder / "evil.py").write_text(CODE)
        (run / folder / "custom_generate").mkdir()
        (run / folder / "custom_generate" / "generate.py").write_text(CODE)
    TextDiffusionPipeline.from_pretrained(run)


@pytest.mark.parametrize(
    "text",
    [
        "a: &x [1]\nb: *x",
        "a: !!python/object/apply:os.system ['true']",
        "[" * 1000,
        "- 1",
        "a: [",
        "a: \x00",
        "a: ${b",
    ],
)
def test_yaml_that_no_training_writes_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(CheckpointError, match="config.yaml"):
        read_run_config(tmp_path / "config.yaml")


@pytest.mark.parametrize(
    "value", ["${oc.env:HOME}", "x${oc.env:HOME,no}", "${oc.decode:${oc.env:HOME}}", "${c}", "${b}"]
)
def test_a_stored_config_asks_no_resolver(tmp_path, value):
    path = tmp_path / "config.yaml"
    path.write_text(f"dataset:\n  name: demo\n  root: {value}\nb: ${{dataset.root}}\n")
    with pytest.raises(CheckpointError, match="config.yaml"):
        resolved(read_run_config(path), path, "dataset")
