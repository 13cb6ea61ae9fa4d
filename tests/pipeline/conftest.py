"""The corpus with classes that several files of tests train on, and the pipelines of a `RequestEngine`."""

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


@pytest.fixture(scope="module")
def engine_pipes(tokenizer):
    """(kind) -> its pipeline, made once."""
    from tests.pipeline.engine_models import make_pipe  # imports a test file, which pytest is to import first

    made = {}

    def pipe(kind):
        if kind not in made:
            made[kind] = make_pipe(kind, tokenizer)
        return made[kind]

    return pipe
