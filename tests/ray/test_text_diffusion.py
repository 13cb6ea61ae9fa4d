"""`TextDiffusion` without a cluster: what a worker does with a batch, and what is refused before sampling."""

from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pytest

from ld4lg_fast.errors import CheckpointError, ConfigError, DataError
from ld4lg_fast.kernels import backend
from ld4lg_fast.ray import TextDiffusion, encode_corpus, sample, workers
from tests.pipeline.engine_models import CLASSES, NUCLEUS, PROMPTS, SOURCES, make_pipe

OPTIONS = {"num_inference_steps": 3, "sampler": "ddpm", "decoding": NUCLEUS}
IDS = np.array([7, 3, 12, 0, 3], dtype=np.int64)
COLUMNS = {
    "plain": {},
    "source": {"source": [SOURCES[number % 3] for number in IDS]},
    "documents": {"prompt": [PROMPTS[number % 3] for number in IDS]},
    "classes": {"class": [number % 3 for number in IDS]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tokenizer):
    """(kind) -> a run directory, made once."""
    made = {}

    def run(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            make_pipe(kind, tokenizer).save_pretrained(made[kind])
        return made[kind]

    return run


@pytest.fixture
def installed(monkeypatch):
    """As if Ray were installed, whether or not it is."""
    spec = ModuleSpec("ray", None, origin="ray/__init__.py")
    monkeypatch.setattr(workers, "find_spec", lambda name: spec)


def rows_of(kind):
    return {"sample_id": IDS, **{name: np.array(values) for name, values in COLUMNS[kind].items()}}


@pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")
@pytest.mark.parametrize("kind", COLUMNS)
def test_a_text_is_that_of_its_id_alone(runs, tokenizer, kind):
    options = OPTIONS | ({"max_new_tokens": 20} if kind == "documents" else {})
    stage = TextDiffusion(runs(kind), seed=5, **options)
    rows = rows_of(kind)
    found = stage({**rows, "note": np.arange(5)})
    assert list(found) == [*rows, "note", "text"] and found["sample_id"].tolist() == IDS.tolist()
    assert found["text"][1] == found["text"][4] and len(set(found["text"])) > 2
    names = {"prompt": "prompt", "source": "source", "class": "class_id"}
    pipe = make_pipe(kind, tokenizer).set_deterministic()
    for place, number in enumerate(IDS.tolist()):
        given = {names[name]: [values[place]] for name, values in COLUMNS[kind].items()}
        assert found["text"][place] == pipe(1, sample_ids=[number], seed=5, **options, **given).texts[0]


def test_classes_are_given_by_name_or_by_number(runs):
    stage, names = TextDiffusion(runs("classes"), **OPTIONS), CLASSES["class_names"]
    by_name = {"sample_id": IDS, "class": np.array([names[number % 3] for number in IDS], dtype=object)}
    assert stage(by_name)["text"].tolist() == stage(rows_of("classes"))["text"].tolist()
    with pytest.raises(ConfigError, match="There is no class 'hotel'; this model has"):
        stage({"sample_id": IDS[:1], "class": np.array(["hotel"])})


def test_conditions_that_a_model_does_not_take_are_refused(runs):
    stage = TextDiffusion(runs("plain"), **OPTIONS)
    for name, value in (("source", "a text"), ("class", 1), ("class", "pub"), ("prompt", "Once")):
        with pytest.raises(ConfigError):
            stage({"sample_id": IDS[:1], name: np.array([value])})
    for name in ("source", "class", "prompt"):
        with pytest.raises(ConfigError):
            stage.check(["sample_id", name])
    stage.check(["sample_id", "note"])
    with pytest.raises(ConfigError):
        TextDiffusion(runs("source"), **OPTIONS).check(["sample_id"])
    with pytest.raises(ConfigError, match="sample_ids"):
        stage({"sample_id": np.array([-1])})


def test_rows_without_ids_and_other_options_are_refused(runs, installed, tmp_path):
    def rows(*columns):
        return SimpleNamespace(columns=lambda: list(columns))

    with pytest.raises(DataError, match="no column sample_id, but id, note; add one with a whole number"):
        sample(runs("plain"), rows("id", "note"), workers=2)
    with pytest.raises(DataError, match="have a column text already; rename it"):
        sample(runs("plain"), rows("sample_id", "text"), workers=2)
    with pytest.raises(ConfigError, match="best_of is 4, which is no option of samples by their ids"):
        sample(runs("plain"), 4, workers=2, best_of=4)
    for value in (0, True, "two", None):
        with pytest.raises(ConfigError, match="workers"):
            sample(runs("plain"), 4, workers=value)
    with pytest.raises(ConfigError, match="num_gpus is -1; it must be a number from 0"):
        sample(runs("plain"), 4, workers=1, num_gpus=-1)
    with pytest.raises(CheckpointError, match="does not exist"):
        TextDiffusion(tmp_path / "none")
    (tmp_path / "autoencoder").mkdir()
    (tmp_path / "autoencoder" / "autoencoder.json").touch()
    with pytest.raises(
        CheckpointError, match="no denoiser yet; train it with: ld4lg train train.stage=diffusion"
    ):
        TextDiffusion(tmp_path)
    with pytest.raises(CheckpointError, match="has no finished autoencoder; train it with"):
        encode_corpus(runs("plain") / "none", workers=2)


@pytest.mark.parametrize("found", [None, ModuleSpec("ray", None)], ids=["nothing", "folder of that name"])
def test_a_missing_package_is_named_with_its_extra(runs, monkeypatch, found):
    monkeypatch.setattr(workers, "find_spec", lambda name: found)
    said = "needs the package ray, which is not installed: pip install 'ld4lg-fast.ray.'"
    with pytest.raises(ConfigError, match=said):
        sample(runs("plain"), 4, workers=2)
    with pytest.raises(ConfigError, match=said):
        encode_corpus(runs("plain"), workers=2)
