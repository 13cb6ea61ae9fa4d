"""Documents cut into blocks: nothing lost, no block too long, sentences whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ld4lg_fast.data import TextDataset, TextSplit
from ld4lg_fast.data.demo_documents import demo_documents, generate_demo_documents
from ld4lg_fast.data.documents import in_blocks, one_text_a_source
from ld4lg_fast.export.runtime.documents import cut_into_blocks, ends_with_sentence, sentences, tidied


def count(texts):
    """A token a letter group of at most five characters."""
    return [sum(-(-len(word) // 5) for word in text.split()) for text in texts]


documents = st.lists(st.text(alphabet="abc .!?\n\"'é漢", max_size=300), min_size=1, max_size=4)


@given(documents, st.integers(1, 12))
def test_blocks_joined_are_the_document_and_none_is_too_long(texts, room):
    texts = [tidied(text) for text in texts]
    blocks = cut_into_blocks(texts, count, room)
    assert len(blocks.offsets) == len(texts) + 1
    for number, text in enumerate(texts):
        parts = blocks.texts[blocks.offsets[number] : blocks.offsets[number + 1]]
        assert "".join(parts) == text
        assert max(count(parts), default=0) <= room


def test_whole_sentences_are_packed():
    text = "One two. Three four five! Six? Seven eight nine ten."
    assert sentences(text) == ["One two.", " Three four five!", " Six?", " Seven eight nine ten."]
    blocks = cut_into_blocks([text], lambda texts: [len(t.split()) for t in texts], 6).texts
    assert blocks == ["One two. Three four five! Six?", " Seven eight nine ten."]


def test_quotes_and_line_breaks_belong_to_their_sentence():
    assert sentences('He said "No." Then\n\nshe left') == ['He said "No."', " Then", "\n\nshe left"]
    assert tidied(" a  b \n \n\n c\nd ") == "a b\n\nc\nd"
    assert ends_with_sentence('He left."') and not ends_with_sentence("He left, and")


def test_blocks_longer_than_the_sum_of_their_parts_are_cut_again():
    def dear(texts):  # a token more for every text of several words
        return [len(text.split()) + (len(text.split()) > 1) for text in texts]

    blocks = cut_into_blocks(["a. b. c. d. e. f. g.", "h."], dear, 3)
    assert "".join(blocks.texts[: blocks.offsets[1]]) == "a. b. c. d. e. f. g." and blocks.texts[-1] == "h."
    assert max(dear(blocks.texts)) <= 3


def test_documents_of_a_corpus_end_with_an_empty_block():
    split = TextSplit(["A b. C d.", "E."], labels=[1, 0])
    dataset = in_blocks(TextDataset("x", split, split, TextSplit([]), ("n", "p"), ""), count, 2)
    assert dataset.train.texts == ["A b.", " C d.", "", "E.", ""]
    assert dataset.train.offsets.tolist() == [0, 3, 5] and dataset.train.labels == [1, 1, 1, 0, 0]
    assert not len(dataset.test)


def test_texts_of_one_meaning_are_a_document():
    split = TextSplit(["a", "b", "c"], sources=["x", "y", "x"])
    assert one_text_a_source(split).texts == ["a c", "b"]


def test_documents_of_the_demo_keep_to_one_place():
    from ld4lg_fast.data.demo import NAMES

    texts = generate_demo_documents(50, seed=3)
    assert texts == generate_demo_documents(80, seed=3)[:50] and len(set(texts)) == 50
    for text in texts:
        assert sum(name in text for name in NAMES) == 1
    dataset = demo_documents(train=20, validation=5, test=5)
    assert len({*dataset.train.texts, *dataset.validation.texts, *dataset.test.texts}) == 30


@pytest.mark.parametrize("room", [8, 30])
def test_a_long_sentence_is_cut_between_words(room):
    text = " ".join(["word"] * 100) + "."
    blocks = cut_into_blocks([text], count, room).texts
    assert "".join(blocks) == text and all(block.strip() == block.strip(" ") for block in blocks)
    assert set(count(blocks[:-1])) == {room}
