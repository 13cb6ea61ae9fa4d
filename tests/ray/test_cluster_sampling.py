"""Sampling on a Ray cluster of two cores: the texts of the pipeline alone, for any number of workers and lost ones."""

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("ray.data", reason="the extra ray is not installed")

from ld4lg_fast import TextDiffusionPipeline  # noqa: E402
from ld4lg_fast.errors import CheckpointError, ConfigError  # noqa: E402
from ld4lg_fast.kernels import backend  # noqa: E402
from ld4lg_fast.ray import TextDiffusion, sample, sampling  # noqa: E402
from tests.pipeline.engine_models import NUCLEUS, make_pipe  # noqa: E402

OPTIONS = {"num_inference_steps": 3, "sampler": "ddpm", "decoding": NUCLEUS}
COUNT, ROWS = 22, 4
LOST = 9  # the id whose worker is lost


def watched(folder: Path) -> type[TextDiffusion]:
    """A stage that notes in ``folder/log`` which process samples which ids; the one that should sample `LOST` is killed
    once where a file ``kill`` is there. Local, so that workers need not import this file."""

    class Watched(TextDiffusion):
        def __call__(self, rows):
            ids = rows["sample_id"].tolist()
            if LOST in ids and (folder / "kill").exists():
                (folder / "kill").rename(folder / "killed")
                os.kill(os.getpid(), signal.SIGKILL)
            with open(folder / "log", "a") as file:
                file.write(f"{os.getpid()} {' '.join(map(str, ids))}\n")
            return super().__call__(rows)

    return Watched


@pytest.fixture(scope="module")
def run(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("plain")
    make_pipe("plain", tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def sampled(cluster, run, tmp_path, monkeypatch):
    """(number of workers) -> the texts by id, and the processes by the ids that they sampled."""
    monkeypatch.setattr(sampling, "ROWS", ROWS)
    monkeypatch.setattr(sampling, "TextDiffusion", watched(tmp_path))

    def found(workers):
        (tmp_path / "log").write_text("")
        rows = sample(run, COUNT, workers=workers, seed=5, **OPTIONS).take_all()
        by_id = {row["sample_id"]: row["text"] for row in rows}
        assert len(rows) == len(by_id) == COUNT
        done = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
        return by_id, {process: [i for p, *ids in done if p == process for i in ids] for process, *_ in done}

    return found


@pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")
def test_texts_are_those_of_the_pipeline_for_any_workers_even_lost_ones(sampled, run, tmp_path):
    pipe = TextDiffusionPipeline.from_pretrained(run).set_deterministic()
    wanted = {i: pipe(1, sample_ids=[i], seed=5, **OPTIONS).texts[0] for i in range(COUNT)}
    assert len(set(wanted.values())) > COUNT // 2
    texts, processes = sampled(1)
    assert texts == wanted and len(processes) == 1
    texts, processes = sampled(2)
    assert texts == wanted and len(processes) == 2
    (tmp_path / "kill").touch()
    texts, _ = sampled(2)
    assert texts == wanted and (tmp_path / "killed").exists()


def test_a_run_and_its_options_are_checked_on_the_cluster_before_anything_is_sampled(cluster, run, tmp_path):
    with pytest.raises(ConfigError, match="num_inference_steps is 0"):
        sample(run, 4, workers=1, num_inference_steps=0)
    with pytest.raises(ConfigError, match="class_id"):
        sample(run, 4, workers=1, class_id=1)
    with pytest.raises(CheckpointError, match="does not exist"):
        sample(tmp_path / "none", 4, workers=1)
