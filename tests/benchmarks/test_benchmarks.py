"""The benchmark commands run and write what they promise; their figures are no matter of tests."""

import importlib
import json
import sys
import time
from pathlib import Path

import datasets
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.data import corpus_cache
from tests.conftest import make_model

ROOT = Path(__file__).resolve().parents[2]


def test_ops(tmp_path, run):
    target = tmp_path / "ops.json"
    for op in ("adaln_residual", "add_layer_norm"):  # the second run adds to the file
        run("benchmarks/ops.py", "--device", "cpu", "--op", op, "--batch-sizes", "1", "--json", str(target))
    result = json.loads(target.read_text())
    assert "auto (reference)" in {row["backend"] for row in result["ops"] if row["op"] == "add_layer_norm"}
    assert {row["backend"] for row in result["ops"]} >= {"reference eager", "reference compiled"}
    row = result["ops"][0]
    assert row["op"] == "adaln_residual"
    assert {
        "op",
        "shape",
        "dtype",
        "floor_us",
        "speedup_vs_eager",
        "speedup_vs_compiled",
        "share_of_ceiling",
    } <= row.keys()
    assert row["median_us"] > 0 and row["speedup_vs_eager"] == 1.0
    assert result["device"]["type"] == "cpu" and "torch" in result["versions"]
    assert target.with_suffix(".png").stat().st_size > 1000


def test_sample_throughput(tmp_path, run):
    target = tmp_path / "sample.json"
    rungs = ["published", "published + SDPA", "engine, fp32"]
    sizes = ("--num-inference-steps", "2", "--batch-sizes", "2", "--rounds", "1", "--device", "cpu")
    run(
        "benchmarks/sample_throughput.py",
        "--config",
        "small",
        *sizes,
        "--only",
        *rungs,
        "--json",
        str(target),
    )
    result = json.loads(target.read_text())
    assert [row["name"] for row in result["rungs"]] == rungs
    for row in result["rungs"]:
        assert row["samples_per_s"] > 0 and row["denoise_ms_per_step"] > 0 and row["added_peak_mib"] >= 0
        assert row["difference_from_published"] < 1e-3 and row["share_of_ceiling"] > 0
        assert (row["speedup_vs_remedies"] is not None) == row["name"].startswith("engine")
    assert result["rungs"][0]["speedup_vs_published"] == 1.0
    assert "| engine, fp32 |" in target.with_suffix(".md").read_text()
    assert target.with_suffix(".png").stat().st_size > 1000
    sizes += ("--precisions", "fp32")
    run(
        "benchmarks/sample_throughput.py",
        "--config",
        "small",
        *sizes,
        "--only",
        rungs[2],
        "--json",
        str(target),
    )
    (row,) = json.loads(target.read_text())["rungs"]
    assert row["samples_per_s"] > 0
    assert row["speedup_vs_published"] is row["difference_from_published"] is None


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_train_throughput(tmp_path, stage, run):
    target = tmp_path / "train.json"
    options = (
        "--config",
        "small",
        "--batch-size",
        "4",
        "--rounds",
        "1",
        "--without-compile",
        "--precisions",
        "fp32",
    )
    run(
        "benchmarks/train_throughput.py", "--device", "cpu", "--stage", stage, *options, "--json", str(target)
    )
    rungs = {rung["name"]: rung for rung in json.loads(target.read_text())["rungs"]}
    assert list(rungs) == ["published", "published + SDPA", "ours, fp32"]
    ours = rungs["ours, fp32"]
    assert ours["mfu"] > 0 and ours["paper_hours"] > 0 and ours["speedup_vs_remedies"] > 0
    assert rungs["published"]["speedup_vs_published"] == 1.0


def test_loss_parity(tmp_path, run):
    target = tmp_path / "losses.json"
    run("benchmarks/loss_parity.py", "--steps", "3", "--batch-size", "4", "--json", str(target))
    stages = json.loads(target.read_text())["stages"]
    assert list(stages) == ["autoencoder", "diffusion"] and target.with_suffix(".png").exists()
    for found in stages.values():
        assert {kind: len(losses) for kind, losses in found["losses"].items()} == {
            "published": 3,
            "ours, fp32": 3,
            "ours, bf16": 3,
        }
        assert found["largest_relative_difference"]["ours, fp32"] < 1e-3


def test_decode_throughput(tmp_path, run):
    target = tmp_path / "decode.json"
    sizes = ["--config", "small", "--batch-sizes", "1", "--max-length", "8", "--rounds", "1"]
    run(
        "benchmarks/decode_throughput.py",
        *("--device", "cpu", "--strategies", "greedy", "beam", "--precisions", "fp32", "int8"),
        *sizes,
        *("--json", str(target)),
    )
    run(
        "benchmarks/decode_throughput.py",
        "--device",
        "cpu",
        "--strategies",
        "nucleus",
        "--add",
        *sizes,
        "--json",
        str(target),
    )
    result = json.loads(target.read_text())
    assert {"rows", "device", "versions"} <= result.keys() and "transformers" in result["versions"]
    rows = {(row["name"], row["strategy"]): row for row in result["rows"]}
    for strategy in ("greedy", "beam"):
        assert rows["generate", strategy]["speedup_vs_generate"] == 1.0
        assert rows["ours, fp32", strategy]["token_agreement"] == 1.0
        assert rows["ours, int8", strategy]["sentences_per_s"] > 0
    assert rows["ours, bf16", "nucleus"]["speedup_vs_generate"] > 0
    assert target.with_suffix(".png").stat().st_size > 1000


def test_decode_throughput_of_a_decoder_only_model(tmp_path, run):
    target = tmp_path / "decode.json"
    sizes = ("--config", "small-causal", "--batch-sizes", "2", "--max-length", "8", "--rounds", "1")
    options = ("--strategies", "greedy", "--precisions", "fp32", "--device", "cpu")
    run("benchmarks/decode_throughput.py", *options, *sizes, "--json", str(target))
    rows = {row["name"]: row for row in json.loads(target.read_text())["rows"]}
    assert rows["ours, fp32"]["token_agreement"] == 1.0 and rows["ours, fp32"]["batch"] == 2
    assert rows["generate, static cache"]["speedup_vs_generate"] > 0


def test_decode_throughput_of_a_run(tmp_path, autoencoder, run):
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained(tmp_path / "own-run")
    target = tmp_path / "decode.json"
    sizes = ("--batch-sizes", "3", "--max-length", "8", "--rounds", "1", "--precisions", "fp32")
    options = ("--run", str(tmp_path / "own-run"), "--strategies", "greedy", "--device", "cpu")
    run("benchmarks/decode_throughput.py", *options, *sizes, "--json", str(target))
    result = json.loads(target.read_text())
    assert result["model"] == "own-run"
    rows = {row["name"]: row for row in result["rows"]}
    assert rows["ours, fp32"]["token_agreement"] == 1.0 and rows["ours, fp32"]["batch"] == 3


def test_recipe_ablation(tmp_path, run, trainings):
    target = tmp_path / "ablation.json"
    run(
        "benchmarks/recipe_ablation.py",
        *("--out", str(tmp_path / "runs"), "--dataset", "demo", "--model", "tiny", "--steps", "2", "2"),
        *("--variants", "v2", "v3", "v3, tan-4", "--seeds", "0", "--samples", "4", "--sampling-steps", "2"),
        *("--decodings", "beam", "nucleus 0.6", "--judge-steps", "3", "--autoregressive-seconds", "1"),
        *("--json", str(target)),
        *("--overrides", "train.validation_texts=4", "train.validation_samples=1"),
    )
    result = json.loads(target.read_text())
    rows = result["rows"]
    assert {"v2, 2 steps, beam", "v3, 2 steps, nucleus 0.6", "autoregressive, nucleus 1"} < set(rows)
    assert set(rows["real validation texts"]["figures"]) >= {"perplexity", "unlikely", "unique_words"}
    assert str(tmp_path) not in target.read_text() and target.with_suffix(".png").exists()
    # v3 and its variant in the denoiser alone share an autoencoder; v2's is another.
    assert len(list((tmp_path / "runs" / "autoencoders").iterdir())) == 2


def test_recipe_ablation_of_denoisers_alone(tmp_path, run, trainings, capsys):
    target = tmp_path / "denoisers.json"
    finished = tmp_path / "finished"
    small = ("train.validation_texts=4", "train.validation_samples=1")
    options = ("dataset=demo", "model=tiny", "train.autoencoder.steps=2", "train.diffusion.steps=2", *small)
    run("scripts/train.py", f"hydra.run.dir={finished}", *options)
    common = ("--out", str(tmp_path / "runs"), "--dataset", "demo", "--model", "tiny", "--steps", "2", "2")
    common += ("--seeds", "0", "1", "--samples", "4", "--sampling-steps", "2", "--decodings", "nucleus 0.6")
    common += ("--judge-steps", "3", "--autoencoder", str(finished), "--json", str(target))
    run("benchmarks/recipe_ablation.py", *common, "--variants", "v3", "v3, cosine")
    rows = json.loads(target.read_text())["rows"]
    assert {"v3, 2 steps, nucleus 0.6", "v3, cosine, 2 steps, nucleus 0.6"} < set(rows)
    assert not any(name.startswith("autoregressive") for name in rows)
    assert len(rows["v3, 2 steps, nucleus 0.6"]["figures"]["diversity"]["values"]) == 2
    assert all(row["figures"]["latent_distance"]["mean"] > 0 for row in rows.values())
    with pytest.raises(SystemExit):
        run("benchmarks/recipe_ablation.py", *common, "--variants", "v2")
    assert "v2 needs another autoencoder than that of --autoencoder" in capsys.readouterr().err


def test_distance_of_latents():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from benchmarks.recipe_ablation import latent_distance

    # Independent positions: (difference of means)² and (difference of deviations)² add up (Fréchet 1957).
    some = torch.randn(20000, 2, 2, generator=torch.Generator().manual_seed(0))
    assert latent_distance(some, some) == pytest.approx(0, abs=1e-9)
    assert latent_distance(3 * some + 1, some) == pytest.approx(1 + 4, rel=0.02)
    assert latent_distance(some.mean(dim=0).expand_as(some), some) == pytest.approx(1, rel=1e-3)


def test_every_variant_of_the_ablation_can_be_trained():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from hydra import compose, initialize_config_module
    from omegaconf import OmegaConf

    from benchmarks.recipe_variants import V2, VARIANTS, split_stages
    from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion

    def built(*overrides: str) -> tuple[dict, LatentDiffusion]:
        config = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
        sizes = config["model"]["denoiser"] | {"dim_latent": 8, "max_len": 8}
        return config, LatentDiffusion.create(config["recipe"], sizes)

    with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        models = {name: built("recipe=v3", *sum(split_stages(VARIANTS[name]), [])) for name in VARIANTS}
        published, plain = built("recipe=v2")
    ours, model = models["v2"]
    assert ours["autoencoder"] == published["autoencoder"]
    assert ours["model"]["perceiver"] == published["model"]["perceiver"]
    assert model.denoiser.config == plain.denoiser.config and model.diffusion == plain.diffusion
    assert ours["recipe"].items() >= {k: v for k, v in published["recipe"].items() if k != "version"}.items()
    assert split_stages([*V2, "recipe.schedule=tan-2"])[1][0] == "recipe.schedule=tan-2"


def test_length_control(tmp_path, run):
    tokenizer = TextDiffusionPipeline.from_pretrained().autoencoder.tokenizer
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": len(tokenizer)}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "judge")
    tokenizer.save_pretrained(tmp_path / "judge")
    target = tmp_path / "lengths.json"
    options = ("--lengths", "12", "40", "--samples", "16", "--quality", "draft", "--json", str(target))
    run("benchmarks/length_control.py", "--judge", str(tmp_path / "judge"), *options)
    rows = json.loads(target.read_text())["rows"]
    assert str(tmp_path) not in target.read_text()
    for length in (12, 40):
        miss = {row["way"]: row["miss"] for row in rows if row["length"] == length}
        assert miss["the nearest of 4"] < miss["not controlled"]
        assert miss["guided, weight 3, the nearest of 4"] < miss["not controlled"]


def test_request_throughput(tmp_path, run):
    target = tmp_path / "requests.json"
    run("benchmarks/request_throughput.py", "--requests", "3", "--rounds", "1", "--json", str(target))
    result = json.loads(target.read_text())
    assert len(result["rows"]) == 4 and all(row["texts_per_s"] > 0 for row in result["rows"])
    assert (
        result["equal_texts"] == 3 and result["late_first_event_steps"] >= 1 and result["late_over_alone"] > 0
    )


def test_onnx_throughput(tmp_path, run, monkeypatch):
    target = tmp_path / "onnx.json"
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # before each timing
    run("benchmarks/onnx_throughput.py", "--batch", "2", "--rounds", "1", "--json", str(target))
    result = json.loads(target.read_text())
    ways = {"pytorch float32", "pytorch int8", "onnx float32", "onnx int8"}
    for task, timings in result["seconds"].items():
        assert ways == timings.keys() - {"transformers"}, task
    assert result["latent_difference"]["onnx float32"] < 1e-4
    assert result["latent_difference_from_eager"]["onnx float32"] < 1e-4
    errors = result["latent_error"]
    assert 0 < errors["onnx float32"] < 2 * errors["eager float32"] < 1e-4 < errors["onnx int8"]
    folders = result["folders"]
    assert folders["int8"]["bytes"] < folders["float32"]["bytes"]
    assert all(folder["cold_start_s"] > 0 and folder["peak_rss_mib"] > 50 for folder in folders.values())
    assert target.with_suffix(".png").stat().st_size > 1000


def test_jobs_of_scaling_find_the_same(tmp_path, monkeypatch):
    """The jobs, which the command runs in processes of their own, find the same texts, tokens and n-grams."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    jobs = importlib.import_module("scaling_jobs")
    monkeypatch.setattr(jobs, "WORDS", 20)  # so that some n-grams are those of other texts
    monkeypatch.setattr(corpus_cache, "LEAST_BYTES", 0)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    jobs.write_corpus(tmp_path / "texts.txt", 300, 0)
    jobs.write_corpus(tmp_path / "some.txt", 30, 1)
    found = {}
    names = ("read", "open", "tokenise", "tokenise as before", "datasets read", "first batch", "memorization")
    for job in names:  # "datasets tokenise" starts processes
        work = jobs.corpus_job(job, tmp_path)
        with jobs.Memory() as memory:
            found[job] = work()
        assert memory.row()["seconds"] > 0 and memory.row()["peak_mib"] >= 0
    assert (
        list(found["read"].train.texts)
        == found["datasets read"]["text"][:]
        == list(found["open"].train.texts)
    )
    tokens, (flat, offsets) = found["tokenise"], found["tokenise as before"]
    assert len(tokens) == 300 and (tokens.flat == flat).all() and (tokens.offsets == offsets).all()
    assert len(found["first batch"]) == jobs.BATCH and 0 < found["memorization"] < 1


def test_scaling_trains_samples_and_goes_on_after_kills(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    scaling = importlib.import_module("scaling")
    target, sizes = tmp_path / "scaling.json", ["--quick", "--sizes", "600"]
    for jobs in (["first step", "sample"], ["warm start", "killed and resumed"]):
        scaling.main([*sizes, "--folder", str(tmp_path), "--jobs", *jobs, "--json", str(target)])
    result = json.loads(target.read_text())
    rows = {row["job"]: row for row in result["rows"]}
    assert rows.keys() == {"first step", "sample", "warm start", "killed and resumed"}, "rows are added"
    assert rows["warm start"]["seconds"] > 0 and "latents_encoded" not in rows["warm start"]
    assert rows["warm start"]["texts_read"] < 600 < rows["first step"]["texts_read"]
    assert rows["killed and resumed"]["equal"] and rows["killed and resumed"]["kills"] > 0
    assert len((tmp_path / "600" / "sampled.jsonl").read_text().splitlines()) == 600
    assert "| reached |" in target.with_suffix(".md").read_text() and target.with_suffix(".png").exists()
