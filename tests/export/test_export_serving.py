"""Exported folders behind the HTTP server: the same texts, shared batches, and a process without PyTorch."""

import sys
import threading

import httpx
import pytest

from benchmarks.served_process import ServedProcess
from ld4lg_fast.cli.serve import _loaded
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.errors import RuntimeInputError
from ld4lg_fast.export.runtime.events import Failed, Finished, Partial
from ld4lg_fast.export.runtime.pipeline import OnnxTextDiffusion
from ld4lg_fast.export.runtime.serving.backend import Full
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.onnx_backend import OnnxBackend
from ld4lg_fast.export.runtime.serving.schemas import CompletionRequest, InfillRequest, InterpolationRequest

FEW = {"steps": 3, "sampler": "ddim", "strategy": "greedy", "max_tokens": 6}


class Asked:
    """A request to a backend, and its events."""

    def __init__(self, backend, on_event=lambda asked, event: None, **fields):
        self.request, self.events, self.ended = CompletionRequest(**FEW | fields), [], threading.Event()
        self._on_event = on_event
        self.cancel = backend.submit(self.request, self._arrived)

    def _arrived(self, event):
        self.events.append(event)
        self._on_event(self, event)
        if isinstance(event, Failed) or len(self.texts(wait=False)) == self.request.num_texts:
            self.ended.set()

    def texts(self, wait=True):
        assert not wait or self.ended.wait(30)
        finished = sorted((e for e in self.events if isinstance(e, Finished)), key=lambda event: event.sample)
        return [event.text for event in finished]


@pytest.fixture(scope="module")
def model(exported):
    return OnnxTextDiffusion(exported, threads=1)


@pytest.fixture
def serve():
    made = []

    def make(model, **limits):
        made.append(OnnxBackend(model, "folder", Limits(**limits)))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def own(model, count, seed):
    options = {
        "num_inference_steps": 3,
        "sampler": "ddim",
        "strategy": "greedy",
        "max_length": 9,
        "seed": seed,
    }
    return model(count, **options)


def test_requests_of_different_seeds_share_a_batch_and_have_their_own_texts(model, serve, monkeypatch):
    backend, batches, sample = serve(model), [], model.sample
    monkeypatch.setattr(
        model, "sample", lambda ids, **options: batches.append(len(ids)) or sample(ids, **options)
    )
    with backend._changed:  # the batch begins when all are there
        asked = [Asked(backend, seed=seed, n=n) for seed, n in ((1, 2), (2**64 - 1, 1), (3, 3))]
        other = Asked(backend, seed=1, n=2, strategy="nucleus", top_p=0.9)
    texts = [each.texts() for each in asked]
    other.texts()
    assert sorted(batches) == [2, 6]
    assert texts == [own(model, n, seed) for seed, n in ((1, 2), (2**64 - 1, 1), (3, 3))]


def test_a_batch_is_not_larger_than_it_may_be(model, serve, monkeypatch):
    backend, batches, sample = serve(model, max_running=3), [], model.sample
    monkeypatch.setattr(
        model, "sample", lambda ids, **options: batches.append(len(ids)) or sample(ids, **options)
    )
    with backend._changed:
        asked = [Asked(backend, seed=seed, n=2) for seed in range(3)]
    texts = [each.texts() for each in asked]
    assert batches == [2, 2, 2]
    assert texts == [own(model, 2, seed) for seed in range(3)]


def test_texts_form_step_by_step(model, serve):
    asked = Asked(serve(model), seed=1, n=2, show_steps=[1, 3])
    asked.texts()
    assert [(e.sample, e.step) for e in asked.events if isinstance(e, Partial)] == [(0, 1), (1, 1)]


def test_a_cancelled_batch_ends_and_the_next_one_begins(model, serve):
    backend, given_up = serve(model), threading.Event()

    def on_event(asked, event):
        asked.cancel()
        given_up.set()

    with backend._changed:
        first = Asked(backend, on_event, seed=1, show_steps=[1, 2])
    assert given_up.wait(30)
    assert Asked(backend, seed=2).texts() == own(model, 1, 2)
    assert [type(event) for event in first.events] == [Partial]


def test_a_batch_that_fails_says_so_and_the_next_one_begins(model, serve, monkeypatch):
    backend = serve(model)
    with monkeypatch.context() as broken:
        broken.setattr(model, "decode_tokens", lambda *arguments: 1 / 0)
        failed = Asked(backend, seed=1)
        assert failed.ended.wait(30)
    assert failed.events == [Failed("The model failed; its log says why.")]
    assert Asked(backend, seed=2).texts() == own(model, 1, 2)


def test_too_many_texts_wait(model, serve):
    backend = serve(model, max_waiting=3)
    with backend._changed:
        first = Asked(backend, n=2)
        with pytest.raises(Full):
            Asked(backend, n=2)
    first.texts()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"quality": "best"}, "quality"),
        ({"sampler": "best"}, "sampler"),
        ({"class_name": "a"}, "class_name 'a' was given, but this model was trained without classes"),
        ({"source": "a"}, "source"),
        ({"prompt": "a"}, "prompt is 'a', but this model was trained without documents"),
        ({"guidance_scale": 2.0}, "guidance_scale 2.0 needs a model with classes"),
        ({"start": "a"}, "start is 'a', which an exported model does not take; leave it out."),
        ({"show_steps": [4]}, "show_steps has 4, but the request has 3 steps; name steps from 1 to 3."),
    ],
)
def test_what_the_model_does_not_take_is_refused_at_once(model, serve, fields, message):
    with pytest.raises(RuntimeInputError) as refused:
        Asked(serve(model), **fields)
    assert message in str(refused.value) and str(refused.value).endswith(".")


def test_it_says_what_it_can_do(model, serve):
    backend = serve(model)
    assert backend.abilities.takes == frozenset() and backend.abilities.can == frozenset()
    assert backend.abilities.max_tokens == model.config.max_len and backend.count_tokens(["a pub", "a"]) > 2
    for function, request in (
        (backend.interpolate, InterpolationRequest(first="a", second="b")),
        (backend.infill, InfillRequest(text="___ a")),
    ):
        with pytest.raises(RuntimeInputError, match="serve its run directory"):
            function(request)


def test_the_command_serves_exported_folders(exported, model):
    backend = _loaded(exported, Limits(), None, False)
    assert backend.abilities.name == exported.name and Asked(backend, seed=3).texts() == own(model, 1, 3)
    backend.close()
    with pytest.raises(ConfigError, match="--precision is bf16, but the folder .* has its own; leave it out"):
        _loaded(exported, Limits(), "bf16", False)


def test_the_folder_serves_itself_without_torch(exported, model):
    code = "import runpy, sys; sys.modules['torch'] = None; sys.path[0] = sys.argv[2]; del sys.argv[0], sys.argv[1]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    server = ServedProcess(
        [sys.executable, "-c", code, str(exported / "serve.py"), str(exported), "--threads", "1"]
    )
    try:
        answer = httpx.post(
            f"{server.address}/v1/completions", json=FEW | {"seed": 4, "n": 2}, timeout=30
        ).json()
        assert [choice["text"] for choice in answer["choices"]] == own(model, 2, 4)
        refused = httpx.post(f"{server.address}/v1/completions", json={"start": "a"})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "start"
    finally:
        server.terminate()
        code, _ = server.end()
    assert code == 0
