"""Damaged and changed exported folders: each is refused in one sentence and never gives other texts."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime import OnnxTextDiffusion, text_tokenizer
from ld4lg_fast.export.runtime.folder import read_config
from ld4lg_fast.export.runtime.folder_schema import PROOFS, digest_of, parse_config
from ld4lg_fast.export.runtime.records import as_json
from tests.export.export_models import MAKERS, saved
from tests.export.exported_folders import (
    OPTIONS,
    changed,
    content_of,
    copied,
    refused,
    seal,
)


@pytest.fixture(autouse=True)
def nothing_waits():
    """A timeout, as a call that reads from a pipe would hang."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("this waits for something"))
    signal.alarm(300)
    yield
    signal.alarm(0)


def test_what_is_written_is_what_is_read(exported):
    content = content_of(exported)
    assert as_json(parse_config(content)) == content and content["digest"] == digest_of(content)
    assert content["vocab_size"] == 400 and content["files"].keys() == content["sha256"].keys()
    files = {path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()}
    assert files - {"config.json"} == set(content["files"]) | {
        name for name in files if "__pycache__" in name
    }


def rewritten(change) -> object:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def replaced(make) -> object:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


DAMAGES = {
    "missing": replaced(lambda path: None),
    "empty": rewritten(lambda content: b""),
    "truncated": rewritten(lambda content: content[: len(content) // 2]),
    "longer": rewritten(lambda content: content + b" "),
    "one bit": rewritten(lambda content: content[:99] + bytes([content[99] ^ 1]) + content[100:]),
    "zeros": rewritten(lambda content: bytes(len(content))),
    "directory": replaced(Path.mkdir),
    "pipe": replaced(os.mkfifo),
    "device": replaced(lambda path: path.symlink_to("/dev/zero")),
    "dangling link": replaced(lambda path: path.symlink_to("nowhere")),
    "link to itself": replaced(lambda path: path.symlink_to(path.name)),
    "file above": replaced(lambda path: path.symlink_to(path.parent)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_files_that_are_not_those_of_the_export_are_refused(exported, tmp_path, damage):
    folder = copied(exported, tmp_path / "folder")
    for name in [*content_of(exported)["files"], "config.json"]:
        path = folder / name
        DAMAGES[damage](path)
        if not (name == "config.json" and damage == "longer"):  # space at its end changes nothing
            refused(folder, str(folder), path.name)
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        shutil.copyfile(exported / name, path)
    read_config(folder)


def test_files_of_another_export_are_refused(exported, tokenizer, tmp_path):
    pipe = MAKERS["v2_bart"](tokenizer)
    for parameter in pipe.model.parameters():
        parameter.data += 0.01
    other = export_run(saved(pipe, tmp_path), tmp_path / "other", validate=False)
    folder = copied(exported, tmp_path / "folder")
    (folder / "weights.bin").write_bytes((other / "weights.bin").read_bytes())
    assert (other / "weights.bin").stat().st_size == (exported / "weights.bin").stat().st_size
    refused(folder, "weights.bin", "was changed since the export, or is that of another one")


def test_links_to_the_same_files_are_followed(exported, tmp_path):
    """Links, as in the caches of hubs; onnxruntime requires the targets of graphs and weights.bin in one folder."""
    blobs = copied(exported, tmp_path / "blobs")
    (tmp_path / "folder").mkdir()
    for path in blobs.iterdir():
        (tmp_path / "folder" / path.name).symlink_to(path)
    assert OnnxTextDiffusion(tmp_path / "folder")(**OPTIONS) == OnnxTextDiffusion(exported)(**OPTIONS)


def test_sizes_without_bound_are_refused_before_anything_is_read(exported, tmp_path):
    for number, name in enumerate(content_of(exported)["files"]):
        folder = copied(exported, tmp_path / str(number))
        os.truncate(folder / name, 2**40)  # a hole, of which no byte is stored
        refused(folder, f"{name} has {2**40} bytes instead of ")
        content = content_of(folder)
        content["files"][name] = 2**40
        content["digest"] = digest_of(content)
        (folder / "config.json").write_text(json.dumps(content))
        refused(folder, f"{name} has {2**40} bytes, more than the ")


def test_every_value_of_the_config_is_under_its_digest(folder):
    content = content_of(folder)
    for path, value in (
        (("generation", "top_p"), 0.5),
        (("generation", "eos_tokens", 0), 3),
        (("diffusion", "mean", 0), 0.25),
        (("qualities", "draft", "num_steps"), 9),
        (("written_by",), "somebody"),
    ):
        (folder / "config.json").write_text(json.dumps(changed(content, path, value)))
        refused(folder, "config.json was changed since the export; copy the folder again, or write it anew")
    for left_out in (PROOFS[:1], PROOFS[1:], PROOFS[2:]):
        less = {name: value for name, value in content.items() if name not in left_out}
        (folder / "config.json").write_text(json.dumps(less))
        refused(folder, "config.json was changed since the export")
    (folder / "config.json").write_text(json.dumps(content, sort_keys=True))  # neither order nor spaces
    read_config(folder)


def test_ids_beyond_the_vocabulary_are_refused(folder):
    content = content_of(folder)
    for path, said in (
        ("start_token", "generation.start_token is 400; this model has the tokens 0 to 399"),
        ("forced_eos_token", "generation.forced_eos_token is 400"),
        ("eos_tokens", "generation.eos_tokens is 400"),
    ):
        value = [2, 400] if path == "eos_tokens" else 400
        seal(folder, changed(content, ("generation", path), value))
        refused(folder, "config.json is damaged", said)


def test_sizes_that_the_graphs_do_not_have_are_refused(folder):
    content = content_of(folder)
    for path, value, *said in (
        (("vocab_size",), 401, "output logits", "decoder.onnx", "(any, any, 401)"),
        (("diffusion", "num_latents"), 7, "input z_t", "denoiser.onnx", "(any, 7, 8)"),
        (("diffusion", "self_condition"), False, "denoiser.onnx has an unknown input 'x_self_cond'"),
        (("source",), {"max_len": 9}, "files.source.onnx is missing"),
    ):
        seal(folder, changed(content, path, value))
        refused(folder, *said)
    wider = changed(content, ("diffusion", "dim_latent"), 9)
    seal(folder, changed(wider, ("diffusion", "mean"), [0.0] * 9))
    refused(folder, "input z_t", "(any, 6, 9)")


def test_a_tokenizer_of_another_vocabulary_is_refused(folder):
    path = folder / "tokenizer.json"
    original = json.loads(path.read_text(encoding="utf-8"))
    more = copy.deepcopy(original)
    more["model"]["vocab"]["surprise"] = 400
    path.write_text(json.dumps(more))
    seal(folder)
    refused(folder, "model.vocab.'surprise' is 400; it must be an id of the language model's 400 tokens")
    path.write_text(json.dumps(original))
    seal(folder, changed(content_of(folder), ("tokenizer", "special_ids"), [0, 399, 5000]))
    refused(folder, "tokenizer.json has no token 5000, which is among tokenizer.special_ids")


def test_a_panic_of_the_tokenizers_library_is_one_sentence(exported, monkeypatch):
    class PanicException(BaseException):
        """A panic of the library, which is not an Exception."""

    class Panics:
        def from_file(self):
            raise PanicException("index out of bounds")

    monkeypatch.setattr(text_tokenizer, "Tokenizer", Panics)
    refused(exported, "tokenizer.json cannot be read (index out of bounds)")
