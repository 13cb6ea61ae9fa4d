"""Training commands are started as the script of a checkout."""

import pytest


@pytest.fixture(autouse=True)
def plain_argv(monkeypatch):
    monkeypatch.setattr("sys.argv", ["scripts/train.py"])
