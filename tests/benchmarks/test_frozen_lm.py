"""The benchmark of a frozen language model trains, measures and asks a reader, with a tiny model."""

import json

import torch

from tests.language_models import spread, tiny_decoder_only


def test_frozen_lm(tmp_path, tokenizer, run):
    torch.manual_seed(0)
    spread(tiny_decoder_only("llama", len(tokenizer)), std=0.05).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    out, target = tmp_path / "out", tmp_path / "frozen.json"
    options = [
        "--dataset",
        "demo",
        "--model",
        "tiny",
        "--texts",
        "60",
        "--language-model",
        str(tmp_path / "lm"),
    ]
    options += ["--autoencoder-minutes", "0.03", "--diffusion-minutes", "0.02", "--out", str(out)]
    options += [
        "--samples",
        "16",
        "--seeds",
        "0",
        "--quality",
        "draft",
        "--reconstructed",
        "8",
        "--judged",
        "4",
    ]
    options += ["--scoring-steps", "4", "--json", str(target)]
    run("benchmarks/frozen_lm.py", *options)
    rows = json.loads(target.read_text())["rows"]
    assert list(rows) == ["frozen", "scratch", "real"] and str(tmp_path) not in target.read_text()
    for name in ("frozen", "scratch"):
        row = rows[name]
        assert 0 <= row["reconstruction"]["bleu"] <= 100 and row["stages"]["autoencoder"]["step"] >= 1
        assert row["quality"]["perplexity"]["mean"] > 1
        assert row["fluent"]["texts"] == 4 and row["fluent"]["by_reader"] is None
    assert not (out / "frozen" / "autoencoder" / "language_model").exists()
    assert "| frozen |" in target.with_suffix(".md").read_text()
    key = json.loads((out / "key.json").read_text())
    assert len((out / "to_judge.txt").read_text().splitlines()) == len(key) == 12
