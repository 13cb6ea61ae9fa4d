"""Exported folders shared by several test files, and what holds for every export."""

from pathlib import Path

import pytest
import torch


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


@pytest.fixture(scope="session", autouse=True)
def traced_at_once():
    """Every graph is traced as it is, not by the exporter's second attempt, which fails after any ``torch.compile``."""
    export = torch.export.export

    def checked(*arguments, strict=False, **options):
        if strict:
            pytest.fail(
                "the first attempt failed, as when a size is read by len(tensor): take tensor.shape[0]"
            )
        return export(*arguments, strict=strict, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.export, "export", checked)
        yield
