"""Calls of an exported folder: options out of range, too large batches, terminals of all kinds."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from tests.export.exported_folders import OPTIONS

BAD_OPTIONS = [
    *(("num_samples", value) for value in (0, -1, 2.0, True, "3", 2**31)),
    *(("batch_size", value) for value in (0, -1, 1.5, None, 10**30)),
    *(("seed", value) for value in (-1, 2**64, 0.0, float("nan"), "0", None)),
    *(("num_inference_steps", value) for value in (0, -1, 2.5, 10**6, "8")),
    *(("sampler", value) for value in ("", "euler", 3)),
    *(("spacing", value) for value in ("", "even", ["time"])),
    *(("quality", value) for value in ("", "best", None, {})),
    *(("guidance_scale", value) for value in (float("nan"), float("inf"), 1e30, "2", 10**400)),
    *(
        ("guidance_interval", value)
        for value in ((0.5, 0.2), (0, float("nan")), (0,), 1, "01", None, (-1, 1))
    ),
    *(("strategy", value) for value in ("", "beams", None)),
    *(("num_beams", value) for value in (0, 2.5, 401, 10**9, True)),
    *(("num_decodes", value) for value in (0, 10**6, 1.5)),
    *(("max_length", value) for value in (1, 10**9, 66, float("inf"))),
    *(("min_length", value) for value in (-1, 65, 10**9)),
    *(("no_repeat_ngram_size", value) for value in (-1, 0.5)),
    *(("top_k", value) for value in (-1, 2.5, 10**30)),
    *((name, value) for name in ("top_p", "temperature") for value in (0, -1, float("nan"), "hot", None)),
    *(("repetition_penalty", value) for value in (0, float("nan"), float("inf"), 1e300)),
    *(("length_penalty", value) for value in (float("nan"), 1e9, "1")),
    *(("early_stopping", value) for value in (None, "always", 2)),
    *(("choose_decode", value) for value in ("best", None)),
    *(("start_token", value) for value in (-1, 400, 10**9, 1.0)),
    *(("eos_tokens", value) for value in (2, (400,), "2", (None,))),
    *(("class_id", value) for value in (0, "a", [])),
    *(("source", value) for value in ("a text", [], 1)),
]


@pytest.fixture(scope="module")
def model(exported) -> OnnxTextDiffusion:
    return OnnxTextDiffusion(exported, threads=1)


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in BAD_OPTIONS))
def test_options_out_of_range_are_refused_by_name(model, name):
    for value in (value for option, value in BAD_OPTIONS if option == name):
        with pytest.raises(RuntimeInputError) as caught:
            model(**OPTIONS | {"strategy": "nucleus"} | {name: value})
        said, wanted = str(caught.value), {"source": "A source"}.get(name, name)
        assert wanted in said and "\n" not in said and len(said) < 400, (value, said)


@pytest.mark.parametrize("threads", [0, -1, 10**6, 2.0, True, "2", float("inf")])
def test_threads_are_a_few_for_each_core(exported, threads):
    with pytest.raises(RuntimeInputError, match="threads is .*; it must be a whole number from 1 to"):
        OnnxTextDiffusion(exported, threads=threads)


def test_a_billion_samples_are_made_batch_by_batch(model):
    """Nothing is allocated in proportion to the number of samples before they are sampled."""

    class Enough(Exception):
        pass

    made: list[list[str]] = []

    def stop(texts: list[str]) -> None:
        made.append(texts)
        if len(made) == 2:
            raise Enough

    tracemalloc.start()
    with pytest.raises(Enough):
        model(**OPTIONS | {"num_samples": 10**9, "batch_size": 3, "on_texts": stop})
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert made[0] + made[1] == model(**OPTIONS | {"num_samples": 6, "batch_size": 4})
    with pytest.raises(
        RuntimeInputError, match=r"batch_size is \d+; so many samples at once need [\d,]+ GiB"
    ):
        model(**OPTIONS | {"num_samples": 10**9, "batch_size": 10**9})


def test_latents_that_are_none_are_not_decoded(model):
    good = np.zeros((2, 6, 8), np.float32)
    assert len(model.decode(good)) == 2
    for latents, sentence in (
        (np.full_like(good, np.nan), "latents of 2 of 2 samples are not finite"),
        (np.where(np.arange(2)[:, None, None] == 1, np.inf, good).astype("f"), "latents of 1 of 2 samples"),
        (good[:, :5], r"latents of the shape \(B, 6, 8\), in floating point; these are"),
        (good[0], r"latents of the shape \(B, 6, 8\)"),
        (good[:0], r"latents of the shape \(B, 6, 8\)"),
        (good.astype(int), "in floating point"),
        (good.tolist(), "these are None"),
    ):
        with pytest.raises(RuntimeInputError, match=sentence):
            model.decode(latents)
    with pytest.raises(RuntimeInputError, match="with the mask"):
        model.decode(good, np.ones((2, 6), bool))
    for ids in ([-1], [0.5], [], ["a"], [[0]], [2**63], 3):
        with pytest.raises(RuntimeInputError, match="sample_ids is .*; it must be one or more whole numbers"):
            model.sample(ids, num_inference_steps=2)


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, folder / "generate.py", "--num-inference-steps", "2", *arguments]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment})


def test_the_command_prints_to_any_terminal_and_refuses_in_one_line(folder, exported):
    done = run(exported, "--num-samples", "2", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.startswith(b"? ")
    stored = [json.loads(run(exported, "--json", "-", PYTHONIOENCODING=e).stdout) for e in ("ascii", "utf-8")]
    assert stored[0]["texts"] == stored[1]["texts"] and len(stored[0]["texts"]) == 8
    for arguments, said in (
        (("--seed", "1.5"), "seed is 1.5; it must be a whole number from 0 to 2**64-1."),
        (("--threads", "1000000"), "threads is 1000000; it must be a whole number from 1 to"),
        (("--num-inference-steps", "9" * 5000), "num_inference_steps is inf; it must be a whole number"),
        (("--sampler", "\x1b[31m" * 900), "invalid choice: '\\x1b[31m"),
        (("--json", "/"), "--json / is not a regular file; name another one."),
        (("--json", "/dev/null"), "--json /dev/null is not a regular file; name another one."),
        (
            ("--json", "nowhere/texts.json"),
            "nowhere/texts.json cannot be written (No such file or directory)",
        ),
        (("--provider", ""), "has no provider ''"),
    ):
        done = run(exported, *arguments)
        lines = done.stderr.decode().splitlines()
        assert done.returncode == 2 and done.stdout == b"" and len(lines) == 1, done
        assert lines[0].startswith("error: ") and said in lines[0] and len(lines[0]) < 600, lines[0]


def test_a_runtime_that_is_damaged_or_lacks_a_package_says_so(folder):
    done = subprocess.run([sys.executable, "-S", folder / "generate.py"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the package numpy cannot be imported" in done.stderr
    source = folder / "ld4lg_runtime" / "noise.py"
    source.write_text(source.read_text() + "# changed\n")
    done = run(folder)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"noise.py has " in done.stderr
    source.write_text("def")
    done = run(folder)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    assert done.stderr.startswith(b"error: ld4lg_runtime is damaged (")
