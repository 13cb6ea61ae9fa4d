"""The byte-level BPE round-trips any text; the token cache gives back what was written, or nothing."""

import hashlib
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ld4lg_fast.data import (
    TokenizedTexts,
    demo_dataset,
    token_cache,
    tokenization,
    tokenize_texts,
    train_bpe_tokenizer,
)
from ld4lg_fast.data.tokenization import SPECIAL_TOKENS, CachedTokens
from ld4lg_fast.data.word_tokens import WordTokens
from ld4lg_fast.errors import CheckpointError, ConfigError, DataError

TEXTS = demo_dataset(train=300, validation=1, test=1).train.texts
BPE = train_bpe_tokenizer(TEXTS, vocab_size=500)


def test_special_tokens_have_barts_ids():
    assert BPE.convert_ids_to_tokens([0, 1, 2, 3]) == list(SPECIAL_TOKENS)
    ids = (BPE.bos_token_id, BPE.pad_token_id, BPE.eos_token_id, BPE.unk_token_id)
    assert ids == (0, 1, 2, 3) and len(BPE) == 500
    assert BPE("pub")["input_ids"][0] == 0 and BPE("pub")["input_ids"][-1] == 2


@settings(deadline=None, max_examples=150)
@given(st.text(max_size=60))
@example("</s> <pad><s> <unk>")
@example(" leading,  double and trailing ")
@example("it 's . \r\n\t é e\u0301 \u202e 😀 \x00")
def test_any_text_comes_back_exactly(text):
    ids = BPE(text)["input_ids"]
    assert ids[0] == 0 and ids[-1] == 2 and not set(ids[1:-1]) & {0, 1, 2, 3}
    assert BPE.decode(ids, skip_special_tokens=True) == text


def test_the_tokenizer_is_the_same_after_saving_and_after_training_again(tmp_path):
    BPE.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    again = train_bpe_tokenizer(iter(TEXTS), vocab_size=500)
    for text in [*TEXTS[:20], "a </s> b , it 's"]:
        assert loaded(text)["input_ids"] == again(text)["input_ids"] == BPE(text)["input_ids"]
    assert loaded.decode(BPE("it 's .")["input_ids"], skip_special_tokens=True) == "it 's ."


def test_frequent_words_become_short():
    assert np.mean([len(BPE(text)["input_ids"]) for text in TEXTS]) < np.mean(list(map(len, TEXTS))) / 3


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_tokenizer_without_texts(texts):
    with pytest.raises(DataError, match="cannot be trained on an empty corpus"):
        train_bpe_tokenizer(texts, 500)


def test_a_vocabulary_without_room_for_all_bytes_is_refused():
    with pytest.raises(ConfigError, match="vocab_size 259 has no room .* use 260 or more"):
        train_bpe_tokenizer(TEXTS, 259)


def test_token_ids_are_the_tokenizers_own_and_compact():
    tokens = tokenize_texts(TEXTS, BPE, max_len=64)
    assert len(tokens) == len(TEXTS) and tokens.num_truncated == 0
    assert [tokens[i] for i in range(len(tokens))] == BPE(TEXTS)["input_ids"]
    assert tokens.lengths.tolist() == [len(tokens[i]) for i in range(len(tokens))]
    assert tokens.flat.dtype == np.uint16 and tokens[-1] == tokens[len(TEXTS) - 1]
    with pytest.raises(IndexError, match="text 300 of 300"):
        tokens[300]


def test_long_texts_are_cut_counted_and_still_end():
    whole, cut = tokenize_texts(TEXTS, BPE, 64), tokenize_texts(TEXTS, BPE, 12)
    assert cut.num_truncated == sum(whole.lengths > 12) > 0
    assert cut.lengths.tolist() == np.minimum(whole.lengths, 12).tolist()
    for i in range(len(cut)):
        assert cut[i] == (whole[i] if len(whole[i]) <= 12 else whole[i][:11] + [2])
    assert len(BPE(" ".join(TEXTS[:5]))["input_ids"]) > 64, "the limit stayed behind in the tokenizer"


def test_a_limit_without_room_for_text_is_refused():
    with pytest.raises(ConfigError, match="max_len 2 has no room beside 2 special tokens: use 3 or more"):
        tokenize_texts(TEXTS, BPE, 2)


def test_no_texts_are_no_tokens():
    assert len(tokenize_texts([], BPE, 64)) == 0


class Uncalled:
    """Stands for the tokenizer where the cache has to answer."""

    @property
    def backend_tokenizer(self):
        return Unencoding()

    def __getattr__(self, name):
        return getattr(BPE, name)

    def __len__(self):
        return len(BPE)


class Unencoding:
    def __getattr__(self, name):
        if name == "encode_batch_fast":
            raise AssertionError("tokenised again")
        return getattr(BPE.backend_tokenizer, name)


def test_the_cache_answers_for_the_same_texts_tokenizer_and_limit_only(tmp_path):
    first = tokenize_texts(TEXTS, BPE, 12, tmp_path)
    cached = tokenize_texts(TEXTS, Uncalled(), 12, tmp_path)
    assert (cached.flat == first.flat).all() and (cached.offsets == first.offsets).all()
    assert cached.num_truncated == first.num_truncated
    others = [
        (TEXTS[:-1], 12),
        (TEXTS, 13),
        ([TEXTS[0] + TEXTS[1][0], TEXTS[1][1:], *TEXTS[2:]], 12),
    ]
    for texts, max_len in others:
        with pytest.raises(AssertionError, match="tokenised again"):
            tokenize_texts(texts, Uncalled(), max_len, tmp_path)
    tokenize_texts(TEXTS, train_bpe_tokenizer(TEXTS, 400), 12, tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2 and all(name.endswith(".safetensors") for name in names)


def test_tokens_of_several_shards_are_those_of_one_and_gone_on_with(tmp_path, monkeypatch):
    whole = tokenize_texts(TEXTS, BPE, 12)
    monkeypatch.setattr(tokenization, "SHARD_TEXTS", 70)
    first, real, calls = tmp_path / "cache", tokenization._encodings, []

    def interrupted(texts, tokenizer):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(texts, tokenizer)

    monkeypatch.setattr(tokenization, "_encodings", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenize_texts(TEXTS, BPE, 12, first)
    made = tokenize_texts(TEXTS, BPE, 12, first)
    assert calls == [70, 70, 70, 70, 70, 20], "finished shards were made again"
    cached = tokenize_texts(TEXTS, Uncalled(), 12, first)
    for tokens in (made, cached):
        assert [tokens[i] for i in range(len(TEXTS))] == [whole[i] for i in range(len(TEXTS))]
        assert (tokens.flat == whole.flat).all() and (tokens.offsets == whole.offsets).all()
        assert (tokens.lengths == whole.lengths).all() and tokens.num_truncated == whole.num_truncated
        assert tokens[-1] == whole[-1] and hashed(tokens) == hashed(whole)
        with pytest.raises(IndexError, match="text 300 of 300"):
            tokens[300]
    assert len(list(first.iterdir())) == 5
    sorted(first.iterdir())[1].write_bytes(b"")
    assert (tokenize_texts(TEXTS, BPE, 12, first).flat == whole.flat).all() and len(calls) == 7


def hashed(tokens):
    digest = hashlib.sha256()
    tokens.hash_into(digest)
    return digest.hexdigest()


def test_latents_of_earlier_versions_are_known_by_their_tokens():
    """Their fingerprint had the ids as int32."""
    flat, offsets = np.array([0, 9, 2], np.int32), np.array([0, 3], np.int64)
    wanted = hashlib.sha256(flat.tobytes() + offsets.tobytes()).hexdigest()
    assert {hashed(TokenizedTexts(flat.astype(kind), offsets, 0)) for kind in (np.int32, np.uint16)} == {
        wanted
    }


def test_ids_beyond_uint16_are_kept():
    words = {f"w{number}": number for number in range(70_000)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")), eos_token="w1"
    )
    tokens = tokenize_texts(["w69999", "w3"], tokenizer, 4)
    assert tokens[0] == [69_999] and tokens.flat.dtype == np.int32


@settings(deadline=None, max_examples=25)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(["flip", "cut", "empty", "swap"]))
def test_a_damaged_cache_is_rebuilt(tmp_path_factory, position, damage):
    folder = tmp_path_factory.mktemp("cache")
    first = tokenize_texts(TEXTS, BPE, 12)
    tokenize_texts(TEXTS, BPE, 12, folder)
    (path,) = folder.iterdir()
    sound = path.read_bytes()
    at = int(position * len(sound))
    if damage == "flip":
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x11]) + sound[at + 1 :])
    elif damage == "cut":
        path.write_bytes(sound[:at])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        other = folder / "other"
        tokenize_texts(TEXTS[1:], BPE, 12, other)
        next(other.iterdir()).rename(path)
    again = tokenize_texts(TEXTS, BPE, 12, folder)
    assert (again.flat == first.flat).all() and (again.offsets == first.offsets).all()
    assert again.num_truncated == first.num_truncated
    tokenize_texts(TEXTS, Uncalled(), 12, folder)


def test_damage_is_reported(tmp_path, caplog):
    tokenize_texts(TEXTS, BPE, 12, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-4])
    with caplog.at_level(logging.WARNING):
        tokenize_texts(TEXTS, BPE, 12, tmp_path)
    assert "is damaged and is rebuilt" in caplog.text


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the token cache cannot be written to .*file"):
        tokenize_texts(TEXTS, BPE, 12, tmp_path / "file")


def test_shards_that_processes_share_out_are_those_of_one(tmp_path, monkeypatch):
    whole = tokenize_texts(TEXTS, BPE, 12)
    monkeypatch.setattr(tokenization, "SHARD_TEXTS", 70)
    first, second = (CachedTokens(TEXTS, BPE, 12, tmp_path) for _ in range(2))
    second.encode(second.starts[1::2])
    assert len(list(tmp_path.iterdir())) == 2
    first.encode(first.starts[::2])
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(tokenization, "_tokenize", lambda *_: pytest.fail("tokenised again"))
    for tokens in (first.open(), second.open()):
        assert (tokens.flat == whole.flat).all() and (tokens.offsets == whole.offsets).all()
        assert tokens.num_truncated == whole.num_truncated and tokens.flat.dtype == np.uint16


def test_processes_without_a_common_folder_make_all_shards_themselves(tmp_path, monkeypatch):
    whole = tokenize_texts(TEXTS, BPE, 12)
    monkeypatch.setattr(tokenization, "SHARD_TEXTS", 70)
    alone = CachedTokens(TEXTS, BPE, 12, tmp_path)
    alone.encode(alone.starts[1::2])
    assert (alone.open().flat == whole.flat).all()


def test_two_that_fill_one_cache_at_once_are_both_right(tmp_path, monkeypatch):
    whole = tokenize_texts(TEXTS, BPE, 12)
    monkeypatch.setattr(tokenization, "SHARD_TEXTS", 20)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: tokenize_texts(TEXTS, BPE, 12, tmp_path), range(4)))
    assert all((tokens.flat == whole.flat).all() for tokens in found)
    assert len(list(tmp_path.iterdir())) == 15, "nothing unfinished is left"


def test_a_full_disk_keeps_the_shards_that_were_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenization, "SHARD_TEXTS", 70)
    real, written = token_cache.write_atomically, []

    def full(path, content):
        if len(written) == 2:
            raise CheckpointError(
                f"{path} cannot be written (No space left on device); free some space there."
            )
        written.append(path)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(token_cache, "write_atomically", full)
        with pytest.raises(DataError, match="token cache cannot be written to .*free some space"):
            tokenize_texts(TEXTS, BPE, 12, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(written)
    monkeypatch.setattr(
        token_cache, "write_atomically", lambda path, content: written.append(path) or real(path, content)
    )
    tokenize_texts(TEXTS, BPE, 12, tmp_path)
    assert len(written) == 5, "finished shards were made again"


def test_the_next_chunk_is_encoded_while_one_is_taken_over(monkeypatch):
    """And a chunk that fails is told, whichever it is."""
    whole = [BPE(text)["input_ids"] for text in TEXTS]
    monkeypatch.setattr(tokenization, "_CHUNK_TEXTS", 90)
    monkeypatch.setattr(tokenization, "_LONG_TEXT", 1000)
    monkeypatch.setattr(WordTokens, "suit", lambda tokenizer: False)
    real, begun = tokenization._encodings, []

    def noted(texts, tokenizer):
        begun.append((len(texts), threading.current_thread() is threading.main_thread()))
        return real(texts, tokenizer)

    monkeypatch.setattr(tokenization, "_encodings", noted)
    tokens = tokenize_texts(TEXTS, BPE, 64)
    assert [tokens[i] for i in range(len(TEXTS))] == whole and begun == [(90, False)] * 3 + [(30, False)]
    fail_at = len(begun) + 3

    def failing(texts, tokenizer):
        if len(begun) + 1 == fail_at:
            raise DataError("no such text")
        return noted(texts, tokenizer)

    monkeypatch.setattr(tokenization, "_encodings", failing)
    with pytest.raises(DataError, match="no such text"):
        tokenize_texts(TEXTS, BPE, 64)


def test_of_a_large_corpus_every_nth_text_is_learned_from():
    count = sum(map(len, TEXTS))
    vocabulary = train_bpe_tokenizer(TEXTS, 400, None).get_vocab()
    assert train_bpe_tokenizer(TEXTS, 400, count).get_vocab() == vocabulary
    of_a_third = train_bpe_tokenizer(TEXTS, 400, count // 3 + 1).get_vocab()
    assert of_a_third == train_bpe_tokenizer(TEXTS[::3], 400, None).get_vocab() != vocabulary
