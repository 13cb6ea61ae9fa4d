"""The benchmark of a decoder-only model's memory runs and writes what it promises."""

import json


def test_decode_memory(tmp_path, run):
    target = tmp_path / "memory.json"
    sizes = (
        "--config",
        "small-causal",
        "--device",
        "cpu",
        "--num-samples",
        "2",
        "--num-inference-steps",
        "2",
    )
    run("benchmarks/decode_memory.py", *sizes, "--precisions", "fp32", "bf16", "--json", str(target))
    rows = json.loads(target.read_text())["rows"]
    assert [(row["precision"], row["loaded_as"]) for row in rows] == [
        ("fp32", "float32"),
        ("bf16", "bfloat16"),
    ]
    assert rows[1]["weights_mib"] < 0.51 * rows[0]["weights_mib"] == 0.51 * rows[0]["float32_mib"]
    assert all(row["peak_mib"] >= row["load_peak_mib"] > 0 for row in rows)
