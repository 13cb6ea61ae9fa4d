"""Corpora of the hub that are streamed: stand-ins for it, as nothing here reaches a network."""

import datasets
import pytest

from ld4lg_fast.data import formats, hub_datasets, load_text_dataset
from ld4lg_fast.data.texts import Labels, Texts
from ld4lg_fast.errors import ConfigError, DataError
from tests.data.test_corpus_cache import ROWS, content, kept, write

__all__ = ["kept"]  # a fixture


def test_a_streamed_corpus_is_read_in_chunks_and_lies_nowhere(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(formats, "CHUNK_ROWS", 3)
    for split in ("train", "validation", "test", "extra"):
        write(tmp_path / "corpus" / f"{split}.jsonl", [row | {"split": split} for row in ROWS])
    options = {"label_column": "kind", "source_column": "from"}
    path = str(tmp_path / "corpus")
    streamed = load_text_dataset("custom", hub={"path": path, "streaming": True}, **options)
    written = [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]
    assert not sum(path.stat().st_size for path in written), "a lock at most"
    assert isinstance(streamed.train.texts, Texts) and isinstance(streamed.train.labels, Labels)
    stored = load_text_dataset("custom", hub={"path": path}, **options)
    assert content(streamed) == content(stored) and len(streamed.train) == 59
    few = load_text_dataset("custom", hub={"path": path, "streaming": True}, limit=10, **options)
    assert (
        few.train.texts == stored.train.texts[:9]
        and "no more than the first 10 rows of a split" in few.origin
    )


@pytest.mark.parametrize("reachable", [True, False])
def test_a_hub_that_goes_away_is_one_sentence(reachable, tmp_path, kept, monkeypatch):
    class Rows:
        def __iter__(self):
            yield from ROWS[:30]
            raise ConnectionError("the line is cut\nand more")

    def load(*_, streaming, **__):
        assert streaming
        if not reachable:
            raise ConnectionError("no route")
        return {"train": Rows()}

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(hub_datasets, "repository_status", lambda *_: "found" if reachable else "unknown")
    said = r"\(the line is cut\)" if reachable else "a corpus that is streamed is never cached"
    with pytest.raises(DataError, match=said) as caught:
        load_text_dataset("custom", hub={"path": "owner/name", "streaming": True})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", ["yes", 1, None])
def test_streaming_is_a_switch(streaming):
    with pytest.raises(
        ConfigError, match="dataset.hub is .*; it must be owner/name, or have path and perhaps .*streaming"
    ):
        load_text_dataset("custom", hub={"path": "owner/name", "streaming": streaming})
