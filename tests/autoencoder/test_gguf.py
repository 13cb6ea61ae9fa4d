"""Language models in GGUF files of llama.cpp: read, stored as plain weights, refused."""

import json

import pytest
import torch

from ld4lg_fast.autoencoder import pretrained
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.pretrained import fetched
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.errors import CheckpointError, ConfigError
from tests.conftest import PERCEIVER
from tests.language_models import spread, tiny_decoder_only

TEXTS = ["The Eagle is a pub near the river.", "Cheap food."]


def test_gguf_files_are_refused_in_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    with pytest.raises(CheckpointError, match="does not exist; give an existing .gguf file"):
        fetched(str(path))
    path.write_bytes(b"GGUF")
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package gguf: pip install ld4lg-fast\[gguf\]"):
        fetched(str(path))


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(gguf, lm, tokenizer, path):
    """A Qwen 2 and its byte-level BPE as llama.cpp stores them."""
    config, bpe = lm.config, json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_license("apache-2.0")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    # transformers gives this architecture a token of Qwen's, whether it is in the file or not.
    writer.add_token_list([*sorted(bpe["vocab"], key=bpe["vocab"].get), "<|endoftext|>"])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_eos_token_id(2)
    for name, weight in lm.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for theirs, ours in GGUF_NAMES.items():
            name = name.replace(theirs, ours)
        writer.add_tensor(name, weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_is_read_and_stored_as_plain_weights(tokenizer, tmp_path):
    gguf = pytest.importorskip("gguf")
    lm = spread(tiny_decoder_only("qwen2", len(tokenizer) + 1))
    write_gguf(gguf, lm, tokenizer, tmp_path / "tiny.gguf")
    model = LanguageAutoencoder.from_pretrained_lm(str(tmp_path / "tiny.gguf"), PERCEIVER, max_len=32).eval()
    assert model.origin == pretrained.Origin("tiny.gguf", "apache-2.0")
    assert all(torch.equal(model.lm.state_dict()[name], weight) for name, weight in lm.state_dict().items())
    tokens = tokenize_texts(TEXTS, model.tokenizer, 32)
    ids, mask = collate([tokens[0], tokens[1]], model.tokenizer.pad_token_id)
    assert model.decode_text(ids.tolist()) == TEXTS
    model.save(tmp_path / "run")
    again = LanguageAutoencoder.load(tmp_path / "run")
    torch.testing.assert_close(again.encode(ids, mask), model.encode(ids, mask))


def test_a_gguf_file_of_an_unknown_architecture_is_refused_in_a_sentence(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "novel")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        CheckpointError, match="transformers cannot read .GGUF model with architecture novel"
    ) as refusal:
        fetched(str(tmp_path / "model.gguf"))
    assert "\n" not in str(refusal.value)
