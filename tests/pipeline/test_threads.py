"""One pipeline serves many threads: each gets the same results as alone."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.backends.cuda import cudnn_sdp_enabled, flash_sdp_enabled
from transformers import AutoTokenizer

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.engine.packed_weights import prepared_once
from tests.conftest import make_model

THREADS = 8
GREEDY, NUCLEUS = DecodingConfig("greedy", 12), DecodingConfig("nucleus", 12)
SHORT = ["the pub near the river is cheap", "a place"]
LONG = ["a family friendly cafe with good food near the river " * 12, "cheap " * 200]

# Texts of which some are cut and some are not, on every way from texts and back; precisions that are prepared late.
CALLS = {
    "token_counts": lambda pipe: pipe.token_counts([*SHORT, *LONG]),
    "encode short": lambda pipe: pipe.encode(SHORT)[0],
    "encode long": lambda pipe: pipe.encode([*LONG, *SHORT])[0],
    "sample": lambda pipe: pipe.sample(3, num_inference_steps=3, seed=5).latents,
    "sample bf16": lambda pipe: pipe.sample(2, num_inference_steps=2, seed=6, precision="bf16").latents,
    "call": lambda pipe: pipe(3, num_inference_steps=2, decoding=NUCLEUS, seed=7).texts,
    "vary": lambda pipe: pipe.vary(LONG[0], 2, num_inference_steps=2, decoding=GREEDY).texts,
    "interpolate": lambda pipe: pipe.interpolate(SHORT[0], LONG[1], 3, decoding=GREEDY),
    "confidences": lambda pipe: pipe.confidences(pipe.encode(SHORT)[0], [SHORT[0], LONG[0]]),
    "infill": lambda pipe: (
        pipe.infill("the ___ pub", 2, best_of=2, max_tokens=3, num_inference_steps=2).texts
    ),
    "beam": lambda pipe: pipe.decode(pipe.encode(SHORT)[0], DecodingConfig("beam", 12)),
}


def plain(value):
    """A tensor as lists, which compare bit by bit."""
    return value.tolist() if isinstance(value, torch.Tensor) else value


def at_once(calls):
    """Results of calls that are made by as many threads at the same time."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


def test_mixed_calls_give_what_they_give_one_after_another(autoencoder):
    alone = TextDiffusionPipeline(copy.deepcopy(autoencoder), make_model())
    expected = {name: plain(call(alone)) for name, call in CALLS.items()}
    shared = TextDiffusionPipeline(autoencoder, make_model())  # nothing is prepared yet
    names = list(CALLS)
    for turn in range(4):
        chosen = [names[(turn * THREADS + thread) % len(names)] for thread in range(THREADS)]
        found = at_once([partial(CALLS[name], shared) for name in chosen])
        for name, value in zip(chosen, found, strict=True):
            assert plain(value) == expected[name], name


def test_runs_are_loaded_by_many_threads(autoencoder, tmp_path):
    """transformers switches tied weights off for the whole process while it loads."""
    pipe = TextDiffusionPipeline(autoencoder, make_model())
    pipe.save_pretrained(tmp_path)
    expected = pipe(2, num_inference_steps=2, decoding=GREEDY, seed=1)
    for _ in range(3):
        for loaded in at_once([partial(TextDiffusionPipeline.from_pretrained, tmp_path)] * THREADS):
            found = loaded(2, num_inference_steps=2, decoding=GREEDY, seed=1)
            assert found.texts == expected.texts and plain(found.latents) == plain(expected.latents)
            assert loaded.autoencoder.lm.lm_head.weight is loaded.autoencoder.lm.get_input_embeddings().weight


@pytest.mark.parametrize("truncates", [False, True], ids=["", "truncation-in-its-file"])
def test_texts_are_tokenised_alike_by_all_threads(tokenizer, tmp_path, truncates):
    tokenizer.save_pretrained(tmp_path)
    shared = AutoTokenizer.from_pretrained(tmp_path)
    texts = [*SHORT, *LONG]
    limits = (12, 32, 64, 400)
    expected = {limit: tokenize_texts(texts, tokenizer, limit) for limit in limits}
    for _ in range(20):
        if truncates:
            shared.backend_tokenizer.enable_truncation(5)
            shared.backend_tokenizer.enable_padding(length=7)
        found = at_once([partial(tokenize_texts, texts, shared, limit) for limit in limits * 2])
        for limit, tokens in zip(limits * 2, found, strict=True):
            assert (tokens.flat.tolist(), tokens.num_truncated) == (
                expected[limit].flat.tolist(),
                expected[limit].num_truncated,
            )
    assert shared.backend_tokenizer.truncation is None


def test_a_model_is_prepared_by_the_first_thread_and_used_by_all():
    module, made = torch.nn.Linear(2, 2), []

    def make():
        made.append(threading.get_ident())
        threading.Event().wait(0.05)
        return object()

    found = at_once([lambda: prepared_once(module, "key", make)] * THREADS)
    assert len(made) == 1 and len(set(map(id, found))) == 1


def test_what_threads_set_on_a_gpu_is_given_back(monkeypatch):
    @contextmanager
    def made_current(device):
        yield

    monkeypatch.setattr(torch.cuda, "device", made_current)
    before = cudnn_sdp_enabled(), flash_sdp_enabled()
    entered, leave = threading.Event(), threading.Event()

    def first():
        with gpu_settings(torch.device("cuda", 0)):
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with gpu_settings(torch.device("cuda", 0)):
        leave.set()
        thread.join()
        assert cudnn_sdp_enabled() is False, "the thread that has left took it along"
    assert (cudnn_sdp_enabled(), flash_sdp_enabled()) == before
