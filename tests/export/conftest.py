"""What several files of tests export once."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tokenizer, tmp_path_factory) -> Path:
    """A tiny model of recipe v2 with random weights, exported; not to be changed."""
    pytest.importorskip("onnxscript")
    from tests.export.exported_folders import small_export

    return small_export(tokenizer, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of ``exported``, to be changed."""
    from tests.export.exported_folders import copied

    return copied(exported, tmp_path / "folder")
