"""Whatever stands in a corpus, tokenizers are trained and texts tokenised in bounded time, and signals are heeded."""

import random
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ld4lg_fast.data import (
    generate_demo_texts,
    load_text_dataset,
    tokenization,
    tokenize_texts,
    train_bpe_tokenizer,
)
from ld4lg_fast.data.tokenization import SPECIAL_TOKENS

SHARED = Path(__file__).resolve().parents[3] / "shared" / "datasets"
TEXTS = generate_demo_texts(200)
BPE = train_bpe_tokenizer(TEXTS, 500)
LETTERS = "".join(random.Random(0).choices(string.ascii_letters, k=10_000))


def unbounded_vocabulary(texts, vocab_size):
    """What the trainer learns of whole words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@pytest.mark.parametrize("name", ["demo", "e2e", "ag_news", "words of 256 bytes"])
def test_the_bound_changes_no_vocabulary_of_a_language(name):
    if name == "demo":
        texts = TEXTS
    elif name.startswith("words"):
        texts = [f"{word * (256 // len(word.encode()))} and more" for word in ("a", "bc", "é", "天气")]
    elif SHARED.is_dir():
        texts = load_text_dataset(name, root=SHARED).train.texts
    else:
        pytest.skip("the real corpora do not lie beside this checkout")
    expected, found = unbounded_vocabulary(texts, 8192), train_bpe_tokenizer(texts, 8192).backend_tokenizer
    assert found.get_vocab() == expected.get_vocab()
    sample = [*texts[:200], LETTERS[:3000]]
    ids = [encoding.ids for encoding in expected.encode_batch(sample)]
    assert [encoding.ids[1:-1] for encoding in found.encode_batch(sample)] == ids


@pytest.mark.parametrize("run", ["a", "ab", "天气", "1", "_", " "])
def test_runs_without_end_are_learned_in_pieces(run):
    tokenizer = train_bpe_tokenizer([*TEXTS, run * (100_000 // len(run))], 800)
    assert max(map(len, tokenizer.get_vocab())) <= 256
    text = f"x {run * 1000} y"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


PROCESSORS = {
    "BART": processors.RobertaProcessing(("</s>", 2), ("<s>", 0)),
    "T5": processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]),
    "two before": processors.TemplateProcessing(
        single="<s> <unk> $A </s>", special_tokens=[("<s>", 0), ("<unk>", 3), ("</s>", 2)]
    ),
    "none": processors.ByteLevel(),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_texts_are_cut_as_the_tokenizer_cuts_them(name, side, monkeypatch):
    monkeypatch.setattr(tokenization, "_LONG_TEXT", 2000)
    backend = Tokenizer.from_str(BPE.backend_tokenizer.to_str())
    backend.post_processor = PROCESSORS[name]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, truncation_side=side, split_special_tokens=True
    )
    texts = [
        *TEXTS[:20],
        "",
        "<s> <unk> </s> " * 9,
        " ".join(TEXTS),
        LETTERS,
        "天气" * 5000,
        f"the end{' ' * 9000}of it",
        f"{' ' * 9000}it begins late",
    ]
    for max_len in (4, 12, 64):
        expected = tokenizer(texts, truncation=True, max_length=max_len)["input_ids"]
        found = tokenize_texts(texts, tokenizer, max_len)
        assert [found[i] for i in range(len(texts))] == expected


SCRIPTS = {
    "training": "train_bpe_tokenizer([letters * 60], 60_000)",
    "tokenising one text": "tokenize_texts([letters * 400], tokenizer, 10**9)",
    "tokenising many texts": "tokenize_texts([letters[:2000]] * 500_000, tokenizer, 64)",
}


@pytest.mark.parametrize(
    ("work", "number"),
    [*((work, signal.SIGINT) for work in SCRIPTS), ("training", signal.SIGTERM)],
)
def test_long_work_heeds_signals(work, number):
    code = f"""
import os, random, signal, string
from ld4lg_fast.data import generate_demo_texts, tokenize_texts, train_bpe_tokenizer

def stop(number, frame):
    print("stopped", flush=True)
    os._exit(9)

letters = "".join(random.Random(0).choices(string.ascii_letters, k=100_000))
tokenizer = train_bpe_tokenizer(generate_demo_texts(100), 500)
signal.signal({int(number)}, stop)
print("begins", flush=True)
{SCRIPTS[work]}
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begins\n"
    time.sleep(1.5)
    sent = time.monotonic()
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "stopped\n" and process.returncode == 9
    assert time.monotonic() - sent < 8
