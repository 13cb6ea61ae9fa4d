"""Texts by their words have the tokens that the tokenizer gives them as a whole."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ld4lg_fast.data import (
    generate_demo_texts,
    tokenization,
    tokenize_texts,
    train_bpe_tokenizer,
    word_tokens,
)
from ld4lg_fast.data.word_tokens import WordTokens

TEXTS = generate_demo_texts(300)
BPE = train_bpe_tokenizer(TEXTS, 500)
SPACES = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())


def both_ways(texts, tokenizer, max_len=10_000):
    found = []
    for way in (tokenization._tokens_by_words, tokenization._tokens_by_texts):
        parts = list(way(texts, tokenizer, max_len))
        ids = np.concatenate([flat for flat, _, _ in parts]).tolist()
        found.append((ids, [n for _, counts, _ in parts for n in counts], sum(n for *_, n in parts)))
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(st.sampled_from(f"ab'srd1²é天😀.,-_\u200b{SPACES}    ")), min_size=1))
@example(["  it's  'twas 1 2²  end ", "", " ", "a \x1f b \x85 c \u3000 d\t e"])
@example(["<s> </s> <pad>", "a<unk> b"])
@example(["x" * 100 + " " + "y" * 100, "x" * 100])
def test_any_texts_have_the_same_tokens(texts):
    by_words, by_texts = both_ways(texts, BPE)
    assert by_words == by_texts


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_are_truncated_alike(side):
    tokenizer = train_bpe_tokenizer(TEXTS, 500)
    tokenizer.truncation_side = side
    for max_len in (3, 9, 20, 60):
        by_words, by_texts = both_ways(TEXTS, tokenizer, max_len)
        assert by_words == by_texts
    assert by_words[2] < 300


def test_special_tokens_that_texts_may_name_are_theirs():
    tokenizer = train_bpe_tokenizer(TEXTS, 500)
    tokenizer.split_special_tokens = False
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.add_tokens(["pub"])
    texts = ["It is a pub.", "<s> A cafe </s>", "A cafe."]
    for chunk in (texts, texts[2:]):
        by_words, by_texts = both_ways(chunk, tokenizer)
        assert by_words == by_texts and by_texts[0].count(0) == len(chunk) + (len(chunk) == 3)


def test_few_words_are_known_at_once(monkeypatch):
    monkeypatch.setattr(word_tokens, "MOST_WORDS", 50)
    monkeypatch.setattr(tokenization, "_CHUNK_TEXTS", 10)
    known = WordTokens(BPE, lambda texts: tokenization._encodings(texts, BPE, special_tokens=False))
    sizes = [known.ids(TEXTS[i : i + 10]) and len(known._known) for i in range(0, 300, 10)]
    assert max(sizes) < 150 and known.ids(["x" * 200]) and "x" * 200 not in known._known
    assert both_ways(TEXTS, BPE)[0] == both_ways(TEXTS, BPE)[1]


def test_corpora_are_tokenised_by_words_and_other_tokenizers_are_not(monkeypatch):
    calls = []
    real = WordTokens.ids
    monkeypatch.setattr(WordTokens, "ids", lambda self, texts: calls.append(len(texts)) or real(self, texts))
    monkeypatch.setattr(tokenization, "_CHUNK_TEXTS", 200)
    tokens = tokenize_texts(TEXTS, BPE, 64)
    assert calls == [200, 100] and [tokens[i] for i in range(300)] == BPE(TEXTS)["input_ids"]
    changes = {
        "pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True),
        "normalizer": normalizers.Lowercase(),
    }
    for name, value in changes.items():
        other = PreTrainedTokenizerFast(tokenizer_object=train_bpe_tokenizer(TEXTS, 500).backend_tokenizer)
        setattr(other.backend_tokenizer, name, value)
        assert WordTokens.suit(BPE) and not WordTokens.suit(other)
