"""``ld4lg serve``: a real process, its refusals, its end under load; and the commands of docs/serving.md."""

import re
import subprocess
import sys
import threading
from collections import Counter

import httpx
import pytest

from benchmarks.served_process import ServedProcess
from ld4lg_fast.cli import main as cli
from ld4lg_fast.cli.serve import _is_exported
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export.runtime.serving import server
from ld4lg_fast.export.runtime.serving.flags import RULES
from ld4lg_fast.export.runtime.serving.limits import Limits
from ld4lg_fast.export.runtime.serving.schemas import CompletionRequest
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.conftest import make_model
from tests.doc_commands import ROOT, blocks

OWN = DecodingConfig("greedy", 10, min_length=2)


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["ld4lg", "serve", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--port", "70000"), "error: --port is 70000; it must be a whole number from 0 to 65535."),
        (("--max-samples", "0"), "error: --max-samples is 0; it must be a whole number from 1 to 10000."),
        (("--max-seconds", "nan"), "error: --max-seconds is nan; it must be a finite number above 0 and"),
        (("--api-key-env", "NO_KEY"), "error: --api-key-env is NO_KEY, but this environment variable has no key"),
        (("--host", "no.such.host.invalid"), "error: The address no.such.host.invalid:8000 cannot be used ("),
        (("no_run", "--port", "0"), "error: The run directory no_run does not exist; train one with ld4lg train."),
    ],
)  # fmt: skip
def test_it_refuses_in_one_sentence(monkeypatch, capsys, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    said = refused(monkeypatch, capsys, *arguments)
    assert said.startswith(message) and said.count("\n") == 1


def test_a_key_with_spaces_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SPACED", "a b")
    assert "--api-key-env is SPACED" in refused(monkeypatch, capsys, "--api-key-env", "SPACED")


def test_missing_packages_are_named(monkeypatch, capsys):
    monkeypatch.setattr("ld4lg_fast.cli.serve.find_spec", lambda name: None)
    assert "needs the package fastapi, which is not installed: pip install 'ld4lg-fast[serve]'." in refused(
        monkeypatch, capsys
    )


def test_exported_folders_are_told_from_runs(tmp_path):
    assert not _is_exported(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert _is_exported(tmp_path)
    (tmp_path / "denoiser").mkdir()
    assert not _is_exported(tmp_path)


def test_it_loads_the_run_and_serves_it_under_its_name(monkeypatch, autoencoder, tmp_path):
    pipe = TextDiffusionPipeline(autoencoder, make_model(), decoding=OWN)
    pipe.save_pretrained(tmp_path / "run")
    given = {}
    monkeypatch.setattr(server, "serve", lambda load, **options: given.update(load=load, **options))
    words = ["--port", "0", "--max-samples", "3", "--precision", "fp32", "--deterministic"]
    monkeypatch.setattr(sys, "argv", ["ld4lg", "serve", str(tmp_path / "run"), *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and given["limits"] == Limits(max_samples=3) and given["port"] == 0
    backend = given["load"]()
    assert backend.abilities.name == "run" and backend.load().steps == 8, "a text was written to warm up"
    assert backend._pipe.model.deterministic
    backend.close()


def test_sigterm_under_load_answers_what_was_accepted_and_ends_with_0():
    code = "from tests.serving.scripted_backend import ScriptedBackend as Backend; import sys; "
    code += "from ld4lg_fast.export.runtime.serving.server import serve; "
    code += "serve(Backend, host='0.0.0.0', port=int(sys.argv[2]))"
    process = ServedProcess([sys.executable, "-c", code])
    statuses, wrong, stopped = Counter(), [], threading.Event()

    def client(seed):
        with httpx.Client(base_url=process.address.replace("0.0.0.0", "127.0.0.1"), timeout=30) as http:
            while True:
                try:
                    answer = http.post("/v1/completions", json={"seed": seed, "n": 2})
                except httpx.TransportError as error:
                    statuses["closed" if isinstance(error, httpx.ConnectError) else repr(error)] += 1
                    return
                statuses[answer.status_code] += 1
                if answer.status_code != 200:
                    return
                texts = [choice["text"] for choice in answer.json()["choices"]]
                if texts != [f"{seed}.{i} <b>one</b> two three" for i in range(2)]:
                    wrong.append(texts)
                if sum(statuses.values()) > 40 and not stopped.is_set():
                    stopped.set()
                    process.terminate()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    code, printed = process.end()
    assert code == 0 and wrong == [] and statuses.keys() <= {200, 503, "closed"} and statuses[200] > 40
    assert printed.count("\n") == 2 and "warning: 0.0.0.0 is open to others" in printed, printed


def test_the_examples_of_the_documentation_run(serving, backend, capsys):
    """Python and curl of docs/serving.md, with the address of a server of this test."""
    backend.abilities = backend.abilities.__class__(**vars(backend.abilities) | {"name": "e2e-small"})
    address, _ = serving(backend)
    document, code = ROOT / "docs" / "serving.md", {}
    for block in blocks(document, "python"):
        exec(compile(block.replace("http://127.0.0.1:8000", address), document.name, "exec"), code)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"1.{i} <b>one</b> two three" for i in range(4)] + [
        *("2 of 0", "4 of 0", "6 of 0", "1.0 <b>one</b> two three")
    ]
    lines = [
        line for block in blocks(document, "sh") for line in block.splitlines() if line.startswith("curl")
    ]
    assert len(lines) == 4
    for line in lines:
        asked = line.replace("http://127.0.0.1:8000", address)
        done = subprocess.run(["sh", "-c", f"{asked} -sS --fail"], capture_output=True, text=True)
        assert done.returncode == 0 and '"object"' in done.stdout, done.stderr


def test_the_documentation_lists_every_field_flag_and_metric(client):
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    table = text.split("| field | what it is |")[1].split("\n\n")[0]
    listed = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`(\w+)`", line.split("|")[1:2][0] if "|" in line else "")
    }
    assert listed == set(CompletionRequest.model_fields) - {"user"}
    flags = set(re.findall(r"^\| `--([\w-]+)`", text, re.M))
    assert flags == {name.replace("_", "-") for name in RULES} - {"port"}
    served = client.get("/metrics").text
    named = set(re.findall(r"`(ld4lg_\w+)`", text)) - {"ld4lg_fast"}
    assert len(named) == 8 and all(name in served for name in named)
