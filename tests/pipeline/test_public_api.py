"""The public API: names, the options of a call, the hub."""

import ast
import inspect
import json
import re
from pathlib import Path
from typing import get_type_hints

import huggingface_hub
import pytest
import torch

import ld4lg_fast
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.checkpoints import hub
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.pipeline.model_card import model_card
from ld4lg_fast.pipeline.outputs import CallOptions, SamplingOptions
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model

GREEDY = DecodingConfig("greedy", 12)


@pytest.fixture
def pipe(autoencoder):
    statistics = RunStatistics((0, 0, 5, 7, 1), ("calm", "loud", "odd"), (6, 4, 3), "texts.txt", 2)
    return TextDiffusionPipeline(autoencoder, make_model(num_classes=3), statistics)


def test_public_names_load_and_are_typed():
    tree = ast.parse(Path(ld4lg_fast.__file__).read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {(node.module, alias.name) for node in checked.body for alias in node.names}
    assert {name for _, name in typed} == set(ld4lg_fast._LAZY) == set(ld4lg_fast.__all__) - {"__version__"}
    for module, name in typed:
        assert module == f"ld4lg_fast.{ld4lg_fast._LAZY[name]}"
        assert getattr(ld4lg_fast, name).__module__.startswith(module)
    with pytest.raises(AttributeError, match="no attribute 'Pipeline'"):
        ld4lg_fast.Pipeline  # noqa: B018


def test_errors_that_the_pipeline_names_are_public():
    docs = [inspect.getdoc(method) or "" for _, method in inspect.getmembers(TextDiffusionPipeline, callable)]
    named = {
        name for doc in docs for name in re.findall(r"^ {4}(\w+Error):", doc.partition("Raises:")[2], re.M)
    }
    assert named and named <= set(ld4lg_fast.__all__)


def test_the_options_of_a_call_are_those_of_sampling_and_decoding():
    explained = set(inspect.signature(TextDiffusionPipeline.sample_batches).parameters) - {
        "self",
        "num_samples",
    }
    assert set(get_type_hints(CallOptions)) == explained
    shared = explained - set(get_type_hints(SamplingOptions)) | {"self", "num_samples", "decoding", "options"}
    shared |= {"prompt", "max_new_tokens"}
    assert set(inspect.signature(TextDiffusionPipeline.stream).parameters) == shared
    own = {"self", "num_samples", "prompt", "max_new_tokens", "best_of", "decoding", "options"}
    assert set(inspect.signature(TextDiffusionPipeline.__call__).parameters) == own


def test_samplers_and_strategies_are_swapped_by_name(pipe):
    one, other = (
        pipe(2, sampler=sampler, num_inference_steps=4, seed=3, decoding="greedy")
        for sampler in ("ddim", "dpmpp_2m")
    )
    assert one.texts == pipe.decode(one.latents, DecodingConfig("greedy"))
    assert not torch.equal(one.latents, other.latents)


def test_a_dtype_alone_can_be_given_to_to(pipe):
    assert pipe.to(torch.bfloat16) is pipe and pipe.device.type == "cpu"
    assert pipe.model.denoiser.input_proj.weight.dtype == torch.bfloat16
    assert pipe.model.latent_mean.dtype == torch.float32
    assert pipe.to("cpu", torch.float32).model.denoiser.input_proj.weight.dtype == torch.float32


def test_a_run_is_loaded_in_a_dtype(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "run")
    loaded = TextDiffusionPipeline.from_pretrained(tmp_path / "run", dtype=torch.bfloat16)
    moved = TextDiffusionPipeline.from_pretrained(tmp_path / "run").to(torch.bfloat16)
    for one, other in ((loaded.autoencoder, moved.autoencoder), (loaded.model, moved.model)):
        first, second = one.state_dict(), other.state_dict()
        assert all(first[name].dtype == tensor.dtype for name, tensor in second.items())
        assert all(torch.equal(first[name], tensor) for name, tensor in second.items())
    assert loaded.autoencoder.lm.dtype == torch.bfloat16 and loaded.model.latent_mean.dtype == torch.float32
    assert loaded(2, num_inference_steps=2).texts == moved(2, num_inference_steps=2).texts
    with pytest.raises(ConfigError, match="dtype is torch.int8"):
        TextDiffusionPipeline.from_pretrained(tmp_path / "run", dtype=torch.int8)
    with pytest.raises(ConfigError, match="trust_remote_code is 'yes'"):
        TextDiffusionPipeline.from_pretrained(tmp_path / "run", trust_remote_code="yes")


def test_compile_compiles_the_blocks_where_they_are_run_and_says_where_not(pipe, monkeypatch, caplog):
    def compiled():
        return sum(module._compiled_call_impl is not None for module in pipe.model.denoiser.modules())

    assert pipe.compile() is pipe and compiled() == 0
    assert "changes nothing on a CPU" in caplog.text
    monkeypatch.setattr(TextDiffusionPipeline, "device", torch.device("cuda"))
    pipe.compile()
    assert compiled() == 2 * pipe.model.denoiser.config.depth


def test_edit_writes_each_text_anew_under_a_condition(pipe):
    texts = ["Clover is a cheap pub.", "Rosewood is a coffee shop near the cathedral."]
    edited = pipe.edit(texts, class_name="loud", strength=0.4, quality="draft", decoding=GREEDY)
    latents, _ = pipe.encode(texts)
    same = pipe(2, start=latents, strength=0.4, class_id=1, quality="draft", decoding=GREEDY)
    assert edited.texts == same.texts and edited.class_ids.tolist() == [1, 1]


class StubHub:
    """The uploads that the hub would have received."""

    def __init__(self, token=None):
        StubHub.token, StubHub.files = token, {}

    def create_repo(self, repo_id, private, exist_ok):
        assert exist_ok
        StubHub.repository = (repo_id, private)
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, repo_id, folder_path, commit_message):
        assert repo_id == StubHub.repository[0] and commit_message
        for path in Path(folder_path).rglob("*"):
            if path.is_file():
                StubHub.files[path.relative_to(folder_path).as_posix()] = path.read_bytes()


def test_push_to_hub_uploads_a_run_and_a_filled_card(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", StubHub)
    figures = {"diversity": {"mean": 0.123456}, "memorization": {"mean": 0.5}}
    found = {
        "rows": [{"name": "beam", "num_texts": 9, "metrics": figures}],
        "settings": {"generation": {"sampler": "unipc", "num_inference_steps": 25}},
    }
    (tmp_path / "evaluation.json").write_text(json.dumps(found))
    url = pipe.push_to_hub(
        "me/pubs", private=True, token="t", license="mit", evaluation=tmp_path / "evaluation.json"
    )
    assert url == "https://hub.example/me/pubs"
    assert StubHub.token == "t" and StubHub.repository == ("me/pubs", True)
    for name, content in StubHub.files.items():
        target = tmp_path / "copy" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    again = TextDiffusionPipeline.from_pretrained(tmp_path / "copy")
    options = {"num_inference_steps": 2, "decoding": GREEDY}
    assert again(2, **options).texts == pipe(2, **options).texts
    card = huggingface_hub.ModelCard.load(tmp_path / "copy" / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "ld4lg-fast"
    for part in (
        'from_pretrained("me/pubs")',
        'class_name="calm"',
        "| latents of a text | 6 × 8 |",
        "| texts | 13 |",
        "| median length | 3 tokens |",
        "calm (6), loud (4), odd (3)",
        "| beam | 9 | 0.1235 | 0.5 |",
        "`unipc`, 25 steps",
    ):
        assert part in card.text, part
    assert "None" not in card.text and "texts.txt" not in card.text


def test_a_card_of_a_run_that_nothing_is_known_of(autoencoder):
    card = model_card(TextDiffusionPipeline(autoencoder, make_model()), "me/plain")
    assert "Nothing is recorded of them." in card.text and "class_name" not in card.text
    assert card.data.license is None


def test_a_card_shows_names_of_classes_and_nothing_more(autoencoder):
    names = ('a"|<img src=x>', "b\n# c", "\x1b[1m")
    model, statistics = make_model(num_classes=3), RunStatistics(class_names=names, class_counts=(1, 2, 3))
    text = model_card(TextDiffusionPipeline(autoencoder, model, statistics), "me/x").text
    code, table = text.split("## Model")
    assert "<img" not in table and "\n# c" not in text and "\x1b" not in text
    assert '| classes | a"\\|&lt;img src=x> (1), b\\n# c (2), ' in text
    assert r'class_name="a\"|<img src=x>"' in code


def test_a_card_needs_what_evaluate_writes(pipe, tmp_path):
    (tmp_path / "x.json").write_text('{"rows": [{"metrics": 3}]}')
    with pytest.raises(CheckpointError, match=r"x\.json is not what ld4lg evaluate writes"):
        model_card(pipe, "me/x", evaluation=tmp_path / "x.json")


def test_only_what_loading_reads_is_downloaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    wanted = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    code = (
        "setup.py",
        "autoencoder/tokenizer/code.py",
        "autoencoder/language_model/custom_generate/generate.py",
    )
    others = (
        "autoencoder/language_model/pytorch_model.bin",
        "denoiser/model.pt",
        "README.md",
        "logs/train.jsonl",
    )
    taken = huggingface_hub.utils.filter_repo_objects([*wanted, *code, *others], allow_patterns=hub.FILES)
    assert set(taken) == wanted


def test_a_name_on_the_hub_is_fetched(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained(tmp_path / "cache")
    asked = []

    class Answering(StubHub):
        def model_info(self, name, revision, timeout):
            asked.append((name, revision))

    def fetch(name, revision, allow_patterns, local_files_only):
        assert not local_files_only and not any("*.bin" in pattern for pattern in allow_patterns)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "HfApi", Answering)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    again = TextDiffusionPipeline.from_pretrained("me/pubs", revision="v1")
    assert asked == [("me/pubs", "v1")] and again.statistics.class_names == ("calm", "loud", "odd")


def test_a_name_that_cannot_be_had_says_why_and_what_to_do(tmp_path, monkeypatch):
    class Silent(StubHub):
        def model_info(self, name, revision, timeout):
            raise TimeoutError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", Silent)
    with pytest.raises(
        CheckpointError, match="me/pubs is no folder, and the hub does not answer; train a run"
    ):
        TextDiffusionPipeline.from_pretrained("me/pubs")
    (tmp_path / "outputs").mkdir()
    with pytest.raises(CheckpointError, match="The run directory outputs/typo does not exist"):
        TextDiffusionPipeline.from_pretrained("outputs/typo")
