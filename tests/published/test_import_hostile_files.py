"""Checkpoints that somebody else made: what is wrong with one is a sentence, whatever its files hold."""

import json
import os
import pickle
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.fuzz.cases import removed
from tests.published.published_checkpoints import Official, Unofficial

NORM = "diffusion_model.norm.weight"
PERCEIVER_NORM = "perceiver_ae.perceiver_encoder.final_norm.weight"


@pytest.fixture
def official(tmp_path, tokenizer):
    return Official(tmp_path, tokenizer).write()


@pytest.fixture
def unofficial(tmp_path, tokenizer):
    return Unofficial(tmp_path, tokenizer).write()


def change_weights(official: Official, change: Callable[[dict], object]) -> None:
    """Changes the averaged weights of the diffusion run."""
    path = official.run / "model.pt"
    content = torch.load(path, weights_only=True)
    state = {
        key.removeprefix("ema_model."): tensor
        for key, tensor in content["ema"].items()
        if "ema_model." in key
    }
    change(state)
    torch.save({"model": state}, path)


def put(name: str, tensor: torch.Tensor) -> Callable[[dict], object]:
    return lambda state: state.update({name: tensor})


def one(value: float) -> torch.Tensor:
    return torch.cat([torch.ones(63), torch.tensor([value])])


WEIGHTS = {
    "one number for all elements": (
        put(NORM, torch.ones(1).expand(64)),
        r"has the shape \(64,\), but the file holds only 4 b",
    ),
    "more elements than any machine has": (
        put("diffusion_model.pos_emb.emb.weight", torch.zeros(1).expand(10**7, 10**7)),
        "but the file holds only 4 bytes",
    ),
    "sparse": (put(NORM, torch.ones(64).to_sparse()), "norm.weight is no plain tensor"),
    "quantised": (
        lambda state: put(NORM, torch.quantize_per_tensor(torch.ones(64), 0.1, 0, torch.qint8))(state),
        "norm.weight is no plain tensor",
    ),
    "without numbers": (put(NORM, torch.empty(64, device="meta")), "norm.weight is no plain tensor"),
    "not a number": (put(NORM, one(torch.nan)), "norm.weight has elements that are not finite"),
    "infinite": (put(NORM, one(torch.inf)), "norm.weight has elements that are not finite"),
    "integers": (put(NORM, torch.ones(64, dtype=torch.int8)), "norm.weight is stored as torch.int8, but"),
    "complex": (
        put(NORM, torch.ones(64, dtype=torch.complex64)),
        "norm.weight is stored as torch.complex64, but",
    ),
    "another number of dimensions": (
        put("diffusion_model.pos_emb.emb.weight", torch.zeros(8, 64, 1)),
        r"has the shape \(8, 64, 1\)",
    ),
    "no dimension": (put("diffusion_model.output_proj.weight", torch.zeros(())), r"has the shape \(\)"),
    "no elements": (
        put("diffusion_model.output_proj.weight", torch.zeros(0, 64)),
        r"has the shape \(0, 64\)",
    ),
    "no heads": (
        put("diffusion_model.encoder.layers.0.1.to_q.weight", torch.zeros(1, 64)),
        "do not fit together|fit no model",
    ),
    "a layer far away": (
        put(f"diffusion_model.encoder.layers.{10**9}.0.0.weight", torch.ones(64)),
        "but not all before",
    ),
    "a layer of many digits": (
        put(f"diffusion_model.encoder.layers.{'9' * 9999}.0.0.weight", torch.ones(64)),
        "but not all before",
    ),
    "a key that is no text": (
        lambda state: state.update({3: torch.ones(1)}),
        "no weights named diffusion_model",
    ),
    "weights of other sizes": (
        put("diffusion_model.pos_emb.emb.weight", torch.zeros(8, 65)),
        "says tx_dim=64 but",
    ),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
@pytest.mark.parametrize("what", WEIGHTS)
def test_tensors_that_are_no_weights_are_refused(official, what):
    change, message = WEIGHTS[what]
    change_weights(official, change)
    official.refused(message)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", [PERCEIVER_NORM, "model.encoder.layernorm_embedding.weight"])
def test_the_autoencoders_weights_are_finite(official, name, value):
    path = official.latent_model / "model.pt"
    content = torch.load(path, weights_only=True)
    content["model"][name].view(-1)[0] = value
    torch.save(content, path)
    official.refused("has elements that are not finite")


@pytest.mark.parametrize(
    "statistics",
    [{"mean": torch.full((8,), torch.nan)}, {"scale": torch.tensor(0.0)}, {"scale": torch.tensor(torch.inf)}],
    ids=str,
)
def test_statistics_of_latents_are_numbers(official, statistics):
    official.write({"normalize_latent": True}, **statistics).refused("latent_scale must be finite")


class Made:
    """Unpickled by a call of ``function``."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def zipped(content: object, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(removed(path), "w", compression) as archive:
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            for name, part in (("data.pkl", data), ("version", b"3\n"), ("byteorder", b"little")):
                archive.writestr(f"archive/{name}", part)

    return write


def pickled(content: object) -> Callable[[Path], object]:
    return lambda path: removed(path).write_bytes(pickle.dumps(content, protocol=2))


FILES = {
    "zeros without end": (zipped({"ema": Made(bytearray, 10**12)}), "makes byte arrays"),
    "zeros without end, in an old file": (pickled({"ema": Made(bytearray, 10**12)}), "makes byte arrays"),
    "compressed": (
        zipped({"ema": "x" * 10**7}, zipfile.ZIP_DEFLATED),
        "is compressed, which no PyTorch checkpoint is",
    ),
    "code": (zipped({"ema": Made(os.system, "touch ran_code")}), "unrestricted unpickling"),
    "evaluated": (zipped({"ema": Made(eval, "1")}), "unrestricted unpickling"),
    "a counter": (zipped({"ema": Counter("abc")}), "no weights named diffusion_model"),
    "nothing": (zipped(b""), "is damaged"),
    "an empty stack": (zipped(b"\x80\x02."), "is damaged"),
    "an unknown memo": (zipped(b"\x80\x02h\x05."), "is damaged"),
    "no name of a storage": (zipped(b"\x80\x02K\x01Q."), "is damaged"),
    "text that is none": (zipped(b"\x80\x02X\x01\x00\x00\x00\xff."), "is damaged"),
    "lists in lists": (zipped(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "holds a list"),
    "a number": (zipped(3), "holds a int"),
    "a torn archive": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "is damaged"),
    "a directory": (lambda path: removed(path).mkdir(), "is not a regular file"),
    "a pipe": (lambda path: os.mkfifo(removed(path)), "is not a regular file"),
    "a device": (lambda path: removed(path).symlink_to("/dev/zero"), "is not a regular file"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_checkpoints_are_refused(official, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    change, message = FILES[what]
    change(official.run / "model.pt")
    official.refused(message)
    assert not (tmp_path / "ran_code").exists()


ARGS = {
    "nested brackets": ("[" * 100_000, "cannot be read as JSON"),
    "a list": ("[]", "not a JSON object"),
    "a key twice": ('{"a": 1, "a": 2}', "cannot be read as JSON"),
    "not a number": ('{"scale": NaN}', "cannot be read as JSON"),
    "too many digits": ('{"scale": ' + "9" * 10_000 + "}", "cannot be read as JSON|no finite number"),
    "not UTF-8": (b'{"a": "\xff"}', "not UTF-8"),
    "too large": (b" " * (65 * 2**20), "more than the"),
}


@pytest.mark.parametrize("what", ARGS)
def test_settings_that_are_no_json_are_refused(official, what):
    content, message = ARGS[what]
    (official.run / "args.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    official.refused(message)


ENTRIES = [
    ({"scale": 10**30}, "schedule_scale|no finite number"),
    ({"scale": 1e300}, "schedule_scale|no finite number"),
    ({"scale": 0}, "schedule_scale"),
    ({"train_prob_self_cond": 1.5}, "self_condition_prob"),
    ({"class_unconditional_prob": -0.1}, "class_drop_prob"),
    ({"train_schedule": "${oc.env:HOME}"}, r"HOME"),
    ({"train_schedule": ""}, "schedule"),
    ({"objective": "x" * 10**6}, "objective"),
    ({"dataset_name": ["roc"]}, "dataset_name"),
    ({"latent_model_path": "a" * 10_000}, "autoencoder is in a"),
    ({"latent_model_path": "a\0b"}, "autoencoder is in a"),
    ({"max_seq_len": -1}, "max_seq_len=-1"),
]


@pytest.mark.parametrize(("args", "message"), ENTRIES, ids=lambda value: str(value)[:40])
def test_settings_out_of_range_are_refused(official, args, message):
    official.write(args).refused(message)


def test_a_longest_text_of_no_tokens_is_refused(official):
    official.write(latent_args={"max_seq_len": 0}).refused("max_seq_len=0; a text has at least one token")


TOP = yaml.safe_dump({"filler": 1})
YAML = {
    "an object of Python": ("a: !!python/object/apply:os.system ['touch ran_code']\n", "cannot be read"),
    "anchors": ("a: &a [x]\nb: *a\n", "has anchors"),
    "nested brackets": ("[" * 100_000, "nested|cannot be read"),
    "a list": ("- a\n", "no mapping"),
    "nothing": ("", "no entry"),
}


@pytest.mark.parametrize("what", YAML)
def test_settings_that_are_no_config_are_refused(unofficial, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    content, message = YAML[what]
    (unofficial.run / ".hydra" / "config.yaml").write_text(content)
    unofficial.refused(message)
    assert not (tmp_path / "ran_code").exists()


VALUES = [
    ("network.transformer.ff_dropout", "${oc.env:HOME}", "network.transformer.ff_dropout cannot be read"),
    ("network.transformer.ff_dropout", "${oc.decode:0.5}", "network.transformer.ff_dropout cannot be read"),
    ("network.transformer.ff_dropout", "${network.transformer.attn_dropout}", None),
    ("network.transformer.ff_dropout", "${network.transformer.ff_dropout}", "cannot be read"),
    ("network.transformer.ff_dropout", 5.0, "dropout"),
    ("network.transformer.ff_dropout", float("nan"), "no finite number"),
    ("dataset.name", "${oc.env:HOME}", "dataset.name cannot be read"),
    ("diffusion.timesteps", 10**12, "num_train_timesteps"),
    ("diffusion.timesteps", -1, "num_train_timesteps"),
    ("diffusion.beta.schedule", {"a": 1}, "diffusion.beta.schedule"),
    ("unused", "${oc.env:HOME}", None),
]


@pytest.mark.parametrize(("key", "value", "message"), VALUES, ids=str)
def test_entries_are_read_from_the_file_alone(unofficial, key, value, message):
    section, (*parents, last) = unofficial.config, key.split(".")
    for name in parents:
        section = section[name]
    section[last] = value
    unofficial.write()
    unofficial.do_import() if message is None else unofficial.refused(message)
    assert os.environ["HOME"] not in json.dumps(unofficial.config)
