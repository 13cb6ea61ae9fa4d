"""The commands and examples of docs/clusters.md, in their order, on a small cluster."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

pytest.importorskip("ray.data", reason="the extra ray is not installed")

from ld4lg_fast import TextDiffusionPipeline  # noqa: E402
from ld4lg_fast.data import generate_demo_texts  # noqa: E402
from tests.conftest import make_model  # noqa: E402
from tests.doc_commands import ROOT, run  # noqa: E402


def test_the_document_runs(cluster, tmp_path, monkeypatch, autoencoder, capsys):
    monkeypatch.chdir(tmp_path)
    pa.parquet.write_table(pa.table({"text": generate_demo_texts(60)}), "part.parquet")
    TextDiffusionPipeline(autoencoder, make_model()).save_pretrained("outputs/foo")
    text = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    code = {}
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, re.S):
        if language == "python":
            for large, small in (("workers=8", "workers=1"), ("1000", "10"), ("/shared", str(tmp_path))):
                block = block.replace(large, small)
            exec(compile(block, "clusters.md", "exec"), code)
            continue
        for line in block.splitlines():
            with monkeypatch.context() as patched:
                run(line, patched)
    assert sum(len(pa.parquet.read_table(path)) for path in Path("texts").iterdir()) == 10
    assert "'note': 'of mine'" in capsys.readouterr().out
    assert Path("outputs/parts/denoiser/config.json").exists()
