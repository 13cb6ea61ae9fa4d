"""The corpus with classes that several files of tests train on."""

import pytest

from tests.pipeline.conditioned_runs import PLACES, write_rows


@pytest.fixture(scope="session")
def labelled(tmp_path_factory):
    rows = [
        {"text": f"A {kind} number {i} by the {PLACES[i % 5]}.", "kind": kind}
        for i in range(60)
        for kind in (("pub", "cafe", "cafe")[i % 3],)
    ]
    return write_rows(tmp_path_factory.mktemp("corpus") / "labelled.jsonl", rows)
