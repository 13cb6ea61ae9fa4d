"""Pretrained language models: opened from folders, trained around, stored, and refused in a sentence."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ld4lg_fast.autoencoder import pretrained
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.lora import Lora, merge
from ld4lg_fast.autoencoder.pretrained import END, fetched
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.models.language_models import Reading, cast_weights
from tests.conftest import PERCEIVER
from tests.language_models import (
    DECODER_ONLY,
    spread,
    tiny_decoder_only,
    tiny_encoder_decoder,
)

TEXTS = ["The Eagle is a pub near the river.", "Cheap food.", "A family friendly coffee shop called Zizzi."]
GREEDY = DecodingConfig("greedy", max_length=12, min_length=0, **NO_RULES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """Makes folders of language models by their names, as a hub would hold them."""
    root = tmp_path_factory.mktemp("hub")

    def make(name):
        folder = root / name
        if not folder.exists():
            torch.manual_seed(0)
            maker = tiny_decoder_only if name in DECODER_ONLY else tiny_encoder_decoder
            spread(maker(name, len(tokenizer))).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def opened(folder, **options):
    torch.manual_seed(0)
    return LanguageAutoencoder.from_pretrained_lm(folder, PERCEIVER, max_len=32, **options)


def batch(autoencoder):
    tokens = tokenize_texts(TEXTS, autoencoder.tokenizer, autoencoder.max_len)
    return collate([tokens[i] for i in range(len(TEXTS))], autoencoder.tokenizer.pad_token_id)


@pytest.mark.parametrize("name", DECODER_ONLY)
@torch.no_grad()
def test_greedy_tokens_are_the_most_probable_after_the_soft_prefix(name, folders):
    model = opened(folders(name)).eval()
    latents, special = torch.randn(3, 6, 8) * 3, set(model.tokenizer.all_special_ids)
    for prefix in (None, torch.tensor([[7, 8, 2], [9, 10, 2], [11, 12, 2]])):
        lm, memory = model.language_model, model.decode_states(latents)
        ids = torch.full((3, 1), lm.start)
        ids = ids if prefix is None else torch.cat([ids, prefix], dim=1)
        first = ids.shape[1]
        for _ in range(11):
            ids = torch.cat([ids, lm.logits(memory, None, ids)[:, -1:].argmax(-1)], dim=1)
        rows = [row[: row.index(2)] if 2 in row else row for row in ids[:, first:].tolist()]
        want = [[token for token in row if token not in special] for row in rows]
        assert model.generate(latents, GREEDY, prefix=prefix) == want
        assert len({tuple(row) for row in want}) > 1, "the latents decide"


def test_a_text_is_its_tokens_and_an_end(folders, tokenizer):
    model = opened(folders("llama"))
    plain = tokenizer("Cheap food.", add_special_tokens=False)["input_ids"]
    assert model.tokenizer("Cheap food.")["input_ids"] == [*plain, 2]
    assert model.tokenizer("</s>")["input_ids"] != [2, 2], "a special token's name is ordinary text"
    assert model.language_model.start == 0


def test_the_bytes_of_byt5_have_a_fast_tokenizer(tmp_path):
    tiny_encoder_decoder("byt5", 384).save_pretrained(tmp_path / "hub")
    slow = ByT5Tokenizer()
    slow.save_pretrained(tmp_path / "hub")
    model = opened(str(tmp_path / "hub"))
    for text in (*TEXTS, "Ünïcödé 😀", ""):
        ids = model.tokenizer(text)["input_ids"]
        assert ids == slow(text)["input_ids"]
        assert model.decode_text([ids]) == [text]
    model.save(tmp_path / "run")
    assert LanguageAutoencoder.load(tmp_path / "run").tokenizer(TEXTS) == model.tokenizer(TEXTS)


def test_a_soft_prefix_begins_with_the_scale_of_embeddings(folders):
    model = opened(folders("gemma")).eval()
    embedded = model.lm.get_input_embeddings()(torch.arange(400)).square().mean().sqrt()
    prefix = model.decode_states(torch.randn(3, 6, 8)).square().mean().sqrt()
    assert embedded > 2, "Gemma scales its embeddings"
    torch.testing.assert_close(prefix, embedded, rtol=0.02, atol=0)


def test_reading_is_stored(folders, tmp_path):
    model = opened(folders("llama"), reading=Reading(2, True)).eval()
    model.save(tmp_path)
    assert LanguageAutoencoder.load(tmp_path).reading == Reading(2, True)
    other = opened(folders("llama")).eval()
    other.perceiver = model.perceiver
    assert not torch.allclose(other.encode(*batch(other)), model.encode(*batch(model)))


def test_a_run_may_name_its_language_model_alone(folders, tmp_path):
    folder = folders("qwen3")
    model = opened(folder, store_lm=False).eval()
    model.save(tmp_path / "run")
    assert not (tmp_path / "run" / "language_model").exists()
    again = LanguageAutoencoder.load(tmp_path / "run")
    torch.testing.assert_close(again.encode(*batch(again)), model.encode(*batch(model)))
    path = tmp_path / "run" / "autoencoder.json"
    content = json.loads(path.read_text())
    content["origin"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="whose weights are others now"):
        LanguageAutoencoder.load(tmp_path / "run")


@pytest.mark.parametrize("store_lm", [True, False])
def test_weights_are_read_in_a_dtype(store_lm, folders, tmp_path):
    """As if they were converted afterwards; frequencies of rotary positions stay in float32."""
    opened(folders("qwen3"), store_lm=store_lm).save(tmp_path)
    model = LanguageAutoencoder.load(tmp_path, dtype=torch.bfloat16)
    whole = LanguageAutoencoder.load(tmp_path).state_dict()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, whole[name].bfloat16()), name
    assert model.lm.dtype == torch.bfloat16 and model.lm.model.rotary_emb.inv_freq.dtype == torch.float32
    again = opened(folders("qwen3")).lm
    frequencies = again.model.rotary_emb.inv_freq.clone()
    assert cast_weights(again, torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(again.model.rotary_emb.inv_freq, frequencies)


def test_the_licence_of_the_card_is_kept(tokenizer, tmp_path):
    tiny_decoder_only("llama", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert fetched(str(tmp_path)).origin.license is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Llama\n")
    assert fetched(str(tmp_path)).origin.license == "apache-2.0"


def without_end(folder, size=60):
    """A folder with a model whose tokenizer has no special tokens; the embeddings have rows to spare."""
    words = {word: number for number, word in enumerate([*"abcdefghij", "food"])}
    backend = Tokenizer(models.WordLevel(words, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    nothing = dict.fromkeys(("bos_token_id", "pad_token_id", "eos_token_id"))
    spread(tiny_decoder_only("llama", size, **nothing)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("size", [11, 60])
def test_a_model_without_an_end_learns_one(size, tmp_path):
    model = opened(without_end(tmp_path / "hub", size)).train()
    end = model.tokenizer.eos_token_id
    assert model.tokenizer.eos_token == END and end == 11
    assert model.tokenizer("food a")["input_ids"] == [10, 0, 11]
    before = model.lm.lm_head.weight.clone()
    ids, mask = collate([[10, 0, 11], [1, 2, 3, 4, 11]], end)
    optimizer = torch.optim.AdamW([model.end_of_text], lr=0.1)
    first = model.loss(ids, mask)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(ids, mask).backward()
        optimizer.step()
    assert model.loss(ids, mask) < first
    model.eval()
    after = model.lm.lm_head.weight
    assert torch.equal(after[end], model.end_of_text) and not torch.equal(after[end], before[end])
    rest = [row for row in range(len(after)) if row != end]
    assert torch.equal(after[rest], before[rest]), "all other weights are frozen"
    model.save(tmp_path / "run")
    again = LanguageAutoencoder.load(tmp_path / "run")
    assert torch.equal(again.lm.lm_head.weight, after)
    torch.testing.assert_close(again.loss(ids, mask), model.loss(ids, mask))


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_lora_is_trained_and_merged(name, folders):
    pytest.importorskip("peft")
    model = opened(folders(name))
    plain = {key: weight.clone() for key, weight in model.lm.state_dict().items()}
    ids, mask = batch(model)
    first = model.train().loss(ids, mask).detach()
    Lora(rank=2, alpha=4.0).add_to(model.lm)
    torch.testing.assert_close(model.loss(ids, mask), first)
    trained = {key: weight for key, weight in model.lm.named_parameters() if weight.requires_grad}
    assert trained and all("lora_" in key for key in trained)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(ids, mask).backward()
        optimizer.step()
    unmerged = model.eval().loss(ids, mask)
    assert unmerged < first
    merge(model.lm)
    assert model.lm.state_dict().keys() == plain.keys()
    torch.testing.assert_close(model.loss(ids, mask), unmerged)
    head, weights = model.lm.get_output_embeddings().weight, model.lm.state_dict()
    assert torch.equal(head, plain["lm_head.weight"]), "the head stays"
    assert any(not torch.equal(weights[key], plain[key]) for key in plain)


def test_lora_without_its_package_is_refused(monkeypatch):
    monkeypatch.setattr("ld4lg_fast.autoencoder.lora.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"rank=2 needs the package peft: pip install ld4lg-fast\[lora\]"):
        Lora(2, 4.0)


def test_recipe_v1_needs_an_encoder(folders):
    with pytest.raises(ConfigError, match="recipe=v1 needs a language model with an encoder"):
        LanguageAutoencoder.from_pretrained_lm(folders("llama"), None, max_len=32)


def test_the_longest_text_leaves_room_for_the_soft_prefix(folders):
    with pytest.raises(ConfigError, match="handles at most 249 tokens, but max_len is 250"):
        LanguageAutoencoder.from_pretrained_lm(folders("llama"), PERCEIVER, max_len=250)


def no_tokenizer(folder, lm, tokenizer):
    lm.save_pretrained(folder)


def larger_vocabulary(folder, lm, tokenizer):
    tiny_decoder_only("llama", 50).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def with_code(folder, lm, tokenizer):
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    content = json.loads(path.read_text()) | {
        "model_type": "novel",
        "auto_map": {"AutoConfig": "novel.Config"},
    }
    path.write_text(json.dumps(content))
    (folder / "novel.py").write_text("raise SystemExit('code of a model was run')\n")


CODE = """
from pathlib import Path

from transformers import LlamaConfig, LlamaForCausalLM

Path({mark!r}).touch()


class Config(LlamaConfig):
    model_type = "novel"


class Model(LlamaForCausalLM):
    config_class = Config
"""


@pytest.fixture
def novel(tokenizer, tmp_path, monkeypatch):
    """A folder with a Llama whose classes are Python code beside it, and the file that the code makes when run."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    with_code(tmp_path / "hub", spread(tiny_decoder_only("llama", len(tokenizer))), tokenizer)
    path = tmp_path / "hub" / "config.json"
    classes = {"AutoConfig": "novel.Config", "AutoModelForCausalLM": "novel.Model"}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": classes}))
    (tmp_path / "hub" / "novel.py").write_text(CODE.format(mark=str(tmp_path / "was_run")))
    return str(tmp_path / "hub"), tmp_path / "was_run"


def test_code_beside_a_model_is_run_by_consent_alone(novel, tmp_path):
    folder, mark = novel
    with pytest.raises(CheckpointError, match=r"train with autoencoder\.trust_remote_code=true"):
        opened(folder)
    assert not mark.exists()
    with pytest.raises(ConfigError, match=r"no run directory holds; give autoencoder\.store_lm=false"):
        opened(folder, trust_remote_code=True)
    model = opened(folder, trust_remote_code=True, store_lm=False).eval()
    assert mark.exists() and model.lm.config.model_type == "novel"
    model.save(tmp_path / "run")
    mark.unlink()
    with pytest.raises(CheckpointError, match="load with trust_remote_code=True"):
        LanguageAutoencoder.load(tmp_path / "run")
    assert not mark.exists(), "a run does not consent"
    again = LanguageAutoencoder.load(tmp_path / "run", trust_remote_code=True)
    torch.testing.assert_close(again.encode(*batch(again)), model.encode(*batch(model)))


def test_a_model_that_transformers_knows_needs_no_code(folders):
    assert not fetched(folders("llama"), trust_remote_code=True).runs_code


def no_writer(folder, lm, tokenizer):
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "vit"}))


def marian(folder, lm, tokenizer):
    tiny_encoder_decoder("marian", len(tokenizer)).save_pretrained(folder)
    for name in ("source.spm", "target.spm", "vocab.json"):
        (folder / name).write_text("{}")


def empty(folder, lm, tokenizer):
    folder.mkdir()


BROKEN = {
    "has no tokenizer": no_tokenizer,
    "it has the token 399, and the model 50 embeddings": larger_vocabulary,
    "needs Python code of its own, which is not run; if you trust its authors": with_code,
    r"has no tokenizer \(Marian's source.spm .*\); add its tokenizer.json and tokenizer_config.json": marian,
    "its type 'vit' is no language model that writes text": no_writer,
    "neither a local folder with a model nor reachable on the hub": empty,
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_unusable_folders_are_refused_in_a_sentence(sentence, tokenizer, tmp_path):
    BROKEN[sentence](tmp_path / "hub", tiny_decoder_only("llama", len(tokenizer)), tokenizer)
    with pytest.raises(CheckpointError, match=sentence) as refusal:
        fetched(str(tmp_path / "hub"))
    assert "\n" not in str(refusal.value)


def test_a_hub_name_without_a_network_is_refused(monkeypatch):
    monkeypatch.setattr(pretrained, "repository_status", lambda name: "unreachable")
    with pytest.raises(CheckpointError, match="neither a local folder with a model nor reachable on the hub"):
        fetched("nobody/no-model")
