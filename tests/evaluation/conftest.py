"""Run directories that several files of tests evaluate."""

import pytest

from tests.evaluation.evaluated_runs import write_corpus, write_run


@pytest.fixture
def run_dir(autoencoder, tmp_path):
    write_corpus(tmp_path / "corpus")
    return write_run(tmp_path / "run", autoencoder, tmp_path / "corpus")


@pytest.fixture
def class_run(autoencoder, tmp_path):
    write_corpus(tmp_path / "corpus", with_labels=True)
    return write_run(tmp_path / "run", autoencoder, tmp_path / "corpus", num_classes=3)
