"""From a run directory to texts: the Python pipeline, scripts/infer.py, and the console command."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.cli import infer as inference
from ld4lg_fast.cli import main as cli
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.pipeline.presets import QUALITIES
from tests.conftest import make_model

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run_dir(autoencoder, tmp_path):
    """A finished run directory with random weights."""
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "run")
    return tmp_path / "run"


def run_infer(monkeypatch, *overrides):
    monkeypatch.setattr(sys, "argv", ["infer.py", *overrides])
    inference.main()


def test_the_same_seed_gives_the_same_texts_at_every_batch_size(run_dir):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    for strategy in ("greedy", "beam", "nucleus"):
        runs = [
            pipe(
                9, num_inference_steps=3, decoding=DecodingConfig(strategy, 12), seed=4, batch_size=size
            ).texts
            for size in (1, 7, 64)
        ]
        assert runs[0] == runs[1] == runs[2]
        assert len(set(runs[0])) > 1, "random weights should not give one text for all samples"


def test_texts_are_sampled_without_rules_where_a_run_leaves_them_to_the_strategy(run_dir):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    latents = pipe.sample(8, num_inference_steps=2, seed=1).latents
    left = {"no_repeat_ngram_size": None, "repetition_penalty": None}
    for strategy, meant in (("nucleus", NO_RULES), ("greedy", {}), ("beam", {})):
        texts, wanted, ruled = (
            pipe.decode(latents, DecodingConfig(strategy, 24, **rules)) for rules in (left, meant, {})
        )
        assert texts == wanted and (texts != ruled) == (strategy == "nucleus")


def test_texts_come_batch_by_batch(run_dir):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    options = {
        "num_inference_steps": 3,
        "decoding": DecodingConfig("nucleus", 12),
        "seed": 4,
        "batch_size": 2,
    }
    seen, phases = [], []
    stream = pipe.stream(
        5,
        callback=lambda step, rows, x_start: seen.append((step, rows.tolist(), tuple(x_start.shape))),
        progress=lambda *numbers: phases.append(numbers),
        **options,
    )
    first = next(stream)
    assert first.rows.tolist() == [0, 1] and len(first.texts) == 2
    assert seen == [(step, [0, 1], (2, 6, 8)) for step in range(3)], "later batches have not begun"
    assert phases[-1] == ("decode", 2, 5)
    batches = [first, *stream]
    assert [batch.rows.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    assert phases[-1] == ("decode", 5, 5) and ("denoise", 15, 15) in phases
    whole = pipe(5, **options | {"batch_size": None})
    assert [text for batch in batches for text in batch.texts] == whole.texts
    assert whole.rows.tolist() == list(range(5))


def test_a_batch_whose_texts_do_not_fit_is_halved(run_dir, monkeypatch):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    options = {"num_inference_steps": 2, "decoding": DecodingConfig("greedy", 12)}
    want, generate, sizes = pipe(5, **options).texts, pipe.autoencoder.generate, []

    def out_of_memory(latents, *arguments, **options):
        sizes.append(len(latents))
        if len(latents) > limit:
            raise torch.OutOfMemoryError("no memory")
        return generate(latents, *arguments, **options)

    monkeypatch.setattr(pipe.autoencoder, "generate", out_of_memory)
    limit = 2
    assert pipe(5, **options).texts == want and sizes == [5, 2, 2, 1]
    limit = 0
    with pytest.raises(ConfigError, match="A single sample does not fit the memory"):
        pipe(1, **options)


def test_presets_are_sampler_and_steps(run_dir):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    for name, plan in QUALITIES.items():
        if name != "paper":
            explicit = {
                "sampler": plan.sampler,
                "num_inference_steps": plan.num_steps,
                "spacing": plan.spacing,
            }
            assert torch.equal(pipe.sample(2, quality=name).latents, pipe.sample(2, **explicit).latents)


def test_two_processes_write_the_sentences_of_one(run_dir, tmp_path):
    options = [f"infer.output_dir={run_dir}", "generation.num_samples=5", "generation.num_inference_steps=3"]
    options += ["generation.max_length=12", "infer.device=cpu"]
    launchers = {
        "one": [sys.executable],
        "two": [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
        + ["--main_process_port", "0"],
    }
    texts = {}
    for name, launcher in launchers.items():
        command = [
            *launcher,
            str(ROOT / "scripts" / "infer.py"),
            *options,
            f"infer.output_file={tmp_path / name}",
        ]
        environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        assert result.stdout.count("Written to") == 1
        texts[name] = json.loads((tmp_path / name).read_text())["texts"]
    assert texts["one"] == texts["two"] and len(set(texts["one"])) > 1


def test_saving_and_loading_keeps_the_texts(run_dir, tmp_path):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    pipe.save_pretrained(tmp_path / "copy")
    again = TextDiffusionPipeline.from_pretrained(tmp_path / "copy")
    options = {"num_inference_steps": 3, "decoding": DecodingConfig("greedy", 12)}
    assert again(3, **options).texts == pipe(3, **options).texts


def test_what_is_left_open_is_decoded_as_the_run_says(run_dir, tmp_path, monkeypatch):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    pipe.decoding = DecodingConfig("nucleus", max_length=12, top_p=0.6)
    pipe.save_pretrained(tmp_path)
    options = [f"infer.output_dir={tmp_path}", "generation.num_samples=3", "generation.num_inference_steps=2"]
    for asked, decoding in (
        ((), pipe.decoding),
        (("generation.top_p=0.9",), replace(pipe.decoding, top_p=0.9)),
        (("generation.strategy=beam", "generation.num_beams=2"), DecodingConfig(max_length=12, num_beams=2)),
    ):
        run_infer(monkeypatch, *options, *asked, f"infer.output_file={tmp_path / 'texts.json'}")
        content = json.loads((tmp_path / "texts.json").read_text())
        assert content["texts"] == pipe(3, num_inference_steps=2, decoding=decoding).texts
        wanted = asdict(decoding) | ({"top_p": 0.6} if decoding.strategy == "beam" else {})
        assert content["settings"].items() >= wanted.items()


def test_infer_writes_texts_and_settings(run_dir, monkeypatch, capsys):
    options = ["generation.num_samples=5", "generation.num_inference_steps=3", "generation.sampler=dpmpp_2m"]
    run_infer(monkeypatch, f"infer.output_dir={run_dir}", *options, "generation.max_length=12")
    path = run_dir / "samples" / "dpmpp_2m_3_beam_seed0.json"
    content = json.loads(path.read_text())
    assert len(content["texts"]) == 5
    assert content["settings"]["sampler"] == "dpmpp_2m" and content["versions"]["torch"] == torch.__version__
    printed = capsys.readouterr().out
    assert content["texts"][0] in printed and str(path) in printed.replace("\n", "")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["generation.sampler=euler"], "Unknown sampler 'euler'"),
        (["generation.strategy=beams"], "Unknown decoding strategy 'beams'"),
        (["infer.dtype=float7"], "Unknown dtype 'float7'"),
        (["infer.device=cuda:7"], "'cuda:7' is not available"),
        (["generation.num_sample=3"], "num_sample"),
    ],
)
def test_bad_input_exits_with_2_and_one_sentence(run_dir, monkeypatch, capsys, overrides, message):
    with pytest.raises(SystemExit) as stopped:
        run_infer(monkeypatch, f"infer.output_dir={run_dir}", *overrides)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


def test_run_directories_that_are_none_or_unfinished_say_what_to_do(run_dir, tmp_path, monkeypatch, capsys):
    with pytest.raises(CheckpointError, match="does not exist; train one"):
        TextDiffusionPipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="not a finished run"):
        TextDiffusionPipeline.from_pretrained(tmp_path)
    (run_dir / "denoiser" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="train.stage=diffusion"):
        TextDiffusionPipeline.from_pretrained(run_dir)
    with pytest.raises(SystemExit) as stopped:
        run_infer(monkeypatch)
    assert stopped.value.code == 2 and "infer.output_dir" in capsys.readouterr().err


def test_what_is_no_latents_of_the_model_is_not_decoded(run_dir):
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    latents, _ = pipe.encode(["The Vaults is a pub."])
    wanted = rf"\(texts, {latents.shape[1]}, {latents.shape[2]}\)"
    with pytest.raises(
        ConfigError, match=rf"shape {wanted}, not a tuple; `encode` gives them and their mask"
    ):
        pipe.decode(pipe.encode(["The Vaults is a pub."]))
    for wrong in (latents[0], latents[:, :-1], latents[..., :-1]):
        with pytest.raises(
            ConfigError, match=rf"{re.escape(str(tuple(wrong.shape)))}; this model's have {wanted}"
        ):
            pipe.decode(wrong)
        with pytest.raises(ConfigError, match="this model's have"):
            pipe.confidences(wrong, ["The Vaults is a pub."])
    with pytest.raises(ConfigError, match=r"mask has the shape \(2, 3\); it must be"):
        pipe.decode(latents, mask=torch.ones(2, 3))


def test_parts_of_different_runs_are_refused(autoencoder):
    with pytest.raises(CheckpointError, match="latents 8 wide but the denoiser was trained on 6, 16 wide"):
        TextDiffusionPipeline(autoencoder, make_wider())


def make_wider():
    from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
    from tests.conftest import RECIPE

    sizes = {"dim": 64, "depth": 1, "dim_latent": 16, "max_len": 6, "num_dense_connections": 0}
    return LatentDiffusion.create(RECIPE, sizes)


def test_command_line_samples_and_reports(run_dir, tmp_path, monkeypatch, capsys):
    out = tmp_path / "texts.json"
    arguments = [
        "sample",
        str(run_dir),
        "--num-samples",
        "2",
        "--num-inference-steps",
        "2",
        "--json",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", ["ld4lg", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0 and len(json.loads(out.read_text())["texts"]) == 2
    monkeypatch.setattr(sys, "argv", ["ld4lg", "doctor"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "kernels, reference: works" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["ld4lg", "sample", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
