"""The benchmark commands run and write what they promise; their figures are no matter of tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"COLUMNS": "160"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_ops(tmp_path):
    target = tmp_path / "ops.json"
    run("ops.py", "--device", "cpu", "--op", "adaln_residual", "--batch-sizes", "1", "--json", str(target))
    result = json.loads(target.read_text())
    assert {row["backend"] for row in result["ops"]} >= {"reference eager", "reference compiled"}
    row = result["ops"][0]
    assert {
        "op",
        "shape",
        "dtype",
        "speedup_vs_eager",
        "speedup_vs_compiled",
        "share_of_ceiling",
    } <= row.keys()
    assert row["median_us"] > 0 and row["speedup_vs_eager"] == 1.0
    assert result["device"]["type"] == "cpu" and "torch" in result["versions"]
    assert target.with_suffix(".png").stat().st_size > 1000
