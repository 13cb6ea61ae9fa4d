"""Models that score texts come from anywhere: they are data, and what is wrong with one is a sentence."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.unavailable import Unavailable
from tests.evaluation.test_evaluation_metrics import save_language_model
from tests.fuzz.cases import removed, rewrite

CODE = 'open("ran_code", "w").close()\nfrom transformers import GPT2Config as C, GPT2LMHeadModel as M\n'


class Bomb:
    def __reduce__(self):
        return open, ("ran_code", "w")


@pytest.fixture(scope="module")
def good(tokenizer, tmp_path_factory):
    return Path(save_language_model(tokenizer, tmp_path_factory.mktemp("models") / "gpt2-tiny"))


@pytest.fixture
def folder(good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(good, tmp_path / "model"))


def with_keys(folder: Path, name: str, **values: object) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | values))


def with_tensors(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    size = len(content["model"]["vocab"])
    content["model"]["vocab"] |= {f"new{number}": size + number for number in range(9)}
    (folder / "tokenizer.json").write_text(json.dumps(content))


REFUSED = {
    "a missing tensor": (
        lambda folder: with_tensors(folder, lambda tensors: tensors.pop("transformer.ln_f.weight")),
        r"transformer\.ln_f\.weight",
    ),
    "a tensor that is not finite": (
        lambda folder: with_tensors(
            folder, lambda tensors: tensors["transformer.ln_f.bias"].fill_(torch.nan)
        ),
        r"transformer\.ln_f\.bias.* not finite",
    ),
    "another tokenizer": (other_tokenizer, "its tokenizer is that of another model"),
    "a torn tokenizer": (
        lambda folder: rewrite(folder / "tokenizer.json", b'{"version":'),
        "cannot be loaded",
    ),
    "a tokenizer of nothing": (lambda folder: rewrite(folder / "tokenizer.json", b"{}"), "cannot be loaded"),
    "nested brackets": (
        lambda folder: rewrite(folder / "config.json", b"[" * 100_000),
        "cannot be loaded",
    ),
    "a model as tokenizer": (
        lambda folder: with_keys(folder, "tokenizer_config.json", tokenizer_class="GPT2Model"),
        "no tokenizer of transformers",
    ),
    "a model as tokenizer of the config": (
        lambda folder: (
            with_keys(folder, "tokenizer_config.json", tokenizer_class=None),
            with_keys(folder, "config.json", tokenizer_class="RagRetriever"),
        ),
        "no tokenizer of transformers",
    ),
    "ids by chance": (
        lambda folder: with_keys(
            folder,
            "tokenizer.json",
            model=json.loads((folder / "tokenizer.json").read_text())["model"] | {"dropout": 0.5},
        ),
        "model.dropout",
    ),
    "no size": (lambda folder: with_keys(folder, "config.json", n_embd="x"), "cannot be loaded"),
    "another size": (lambda folder: with_keys(folder, "config.json", n_embd=128), "cannot be loaded"),
    "a size that no machine holds": (
        lambda folder: with_keys(folder, "config.json", n_positions=10**13),
        "cannot be loaded",
    ),
    "a pickle that runs code": (
        lambda folder: (
            removed(folder / "model.safetensors"),
            rewrite(folder / "pytorch_model.bin", pickle.dumps(Bomb())),
        ),
        "cannot be loaded",
    ),
    "a class of code": (
        lambda folder: (
            with_keys(
                folder,
                "config.json",
                model_type="mine",
                auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"},
            ),
            rewrite(folder / "code.py", CODE.encode()),
        ),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_scoring_model_that_is_not_whole_is_left_out_with_a_sentence(what, folder, tmp_path):
    change, message = REFUSED[what]
    change(folder)
    scorers = ScoringModels()
    with pytest.raises(Unavailable, match=message) as caught:
        scorers.language_model(str(folder))
    assert "\n" not in str(caught.value) and not (tmp_path / "ran_code").exists()
    with pytest.raises(Unavailable):
        scorers.language_model(str(folder))


IGNORED = {
    "a kernel of the hub": lambda folder: with_keys(
        folder, "config.json", attn_implementation="kernels-community/flash-attn"
    ),
    "code for a class that transformers has": lambda folder: (
        with_keys(folder, "config.json", auto_map={"AutoModelForCausalLM": "code.M"}),
        with_keys(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", "code.T"]}),
        rewrite(folder / "code.py", CODE.encode()),
    ),
    "a pickle beside the weights": lambda folder: rewrite(folder / "pytorch_model.bin", pickle.dumps(Bomb())),
}


@pytest.mark.parametrize("what", IGNORED)
def test_what_a_scoring_model_says_of_code_is_not_followed(what, folder, good, tmp_path):
    IGNORED[what](folder)
    changed, whole = (ScoringModels().language_model(str(place)) for place in (folder, good))
    ids = torch.arange(4)[None]
    with torch.no_grad():
        assert torch.equal(changed.model(ids).logits, whole.model(ids).logits)
    assert not (tmp_path / "ran_code").exists()
