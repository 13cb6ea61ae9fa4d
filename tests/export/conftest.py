"""Exported folders shared by several test files."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def exported(tokenizer, tmp_path_factory) -> Path:
    """An exported tiny model of recipe v2 with random weights; tests must not change it."""
    pytest.importorskip("onnxscript")
    from tests.export.exported_folders import small_export

    return small_export(tokenizer, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def folder(exported, tmp_path) -> Path:
    """A copy of ``exported`` that tests may change."""
    from tests.export.exported_folders import copied

    return copied(exported, tmp_path / "folder")
