"""`ld4lg bench all`: its runner, its page, and the checks of CUDA graphs on stand-ins, as no GPU is needed here."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from ld4lg_fast.cli import bench
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.engine.sampling_run import SamplingRun
from ld4lg_fast.engine.step_table import Plan
from tests.conftest import make_model

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from benchmarks import gpu_tests, graph_replays, launch_gaps, piece_runner  # noqa: E402
from benchmarks.bench_page import page  # noqa: E402
from benchmarks.graph_counts import CountedCall, GraphCounts, counted_graphs, graph_fault  # noqa: E402
from benchmarks.harness import added_peak_mib, available_precisions  # noqa: E402
from benchmarks.piece_runner import PieceRunner  # noqa: E402
from benchmarks.pieces import LIMIT_MINUTES, NOT_RUN, Piece, left_out, pieces, suite_name  # noqa: E402

SCRIPTS = {
    "works": "import json, sys; json.dump({'n': 1}, open(sys.argv[-1], 'w'))",
    "fails": "import sys; print('no such thing'); sys.exit(3)",
    "hangs": "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)",
    "interrupts": "import os, signal, time; open('pid', 'w').write(str(os.getpid())); "
    "os.kill(os.getppid(), signal.SIGINT); time.sleep(600)",
}


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Pieces of one-line scripts, by name."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(piece_runner, "ROOT", tmp_path)
    for name, code in SCRIPTS.items():
        (tmp_path / "benchmarks" / f"{name}.py").write_text(code)
    return lambda name, **more: Piece(name, f"Title of {name}", (f"{name}.py",), 1, **more)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_pieces_that_fail_or_hang_do_not_stop_the_others(tmp_path, fake):
    runner = PieceRunner(tmp_path / "out", limit_minutes=2 / 60)
    chosen = [
        fake("fails"),
        fake("hangs"),
        fake("works"),
        fake("missing"),
        fake("needs", needs=("no_package",)),
    ]
    outcomes, interrupted = runner.run(chosen)
    assert [outcome.status for outcome in outcomes] == ["failed", "timeout", "done", "skipped", "skipped"]
    assert "no such thing" in outcomes[0].reason and "exit code 3" in outcomes[0].reason
    assert "no_package" in outcomes[4].reason and not interrupted
    assert not alive(int((tmp_path / "out" / "pid").read_text()))


def test_pieces_that_are_done_are_kept(tmp_path, fake):
    out = tmp_path / "out"
    first, _ = PieceRunner(out).run([fake("works"), fake("fails")])
    (tmp_path / "benchmarks" / "works.py").write_text("raise SystemExit('run again')")
    (tmp_path / "benchmarks" / "fails.py").write_text(SCRIPTS["works"])
    second, _ = PieceRunner(out).run([fake("works"), fake("fails")])
    assert [outcome.status for outcome in second] == ["done", "done"] and second[0] == first[0]
    other = Piece("works", "with other options", ("works.py", "--more"), 1)
    assert PieceRunner(out).run([other])[0][0].status == "failed", "of another command nothing is kept"
    (late,), _ = PieceRunner(out, max_minutes=0.5).run([other])
    assert (late.status, "start the same command again" in late.reason) == ("not reached", True)


def test_ctrl_c_keeps_what_is_there(tmp_path, fake):
    out = tmp_path / "out"
    outcomes, interrupted = PieceRunner(out).run([fake("works"), fake("interrupts"), fake("fails")])
    assert interrupted
    assert [outcome.status for outcome in outcomes] == ["done", "not reached", "not reached"]
    assert not alive(int((out / "pid").read_text()))
    assert json.loads((out / "works.json").read_text()) == {"n": 1} and not (out / "interrupts.json").exists()


def test_a_suite_ends_after_ctrl_c_in_its_own_way(tmp_path, monkeypatch):
    code = "import os, signal, sys, time; os.kill(os.getppid(), signal.SIGINT); time.sleep(1); sys.exit(5)"
    (tmp_path / "suite.py").write_text(code)
    monkeypatch.setattr(bench, "find_suites", lambda: {"suite": tmp_path / "suite.py"})
    before = signal.getsignal(signal.SIGINT)
    assert bench.run_suite("suite", []) == 5
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_benchmark_is_a_piece_or_says_why_not(device):
    suites = bench.find_suites()
    files = {suite_name(path.name) for path in suites.values()}
    assert files == set(suites)
    for quick in (False, True):
        chosen = pieces(device, quick, profile=True)
        assert len({piece.name for piece in chosen}) == len(chosen)
        assert all(piece.minutes < LIMIT_MINUTES for piece in chosen)
        run = {suite_name(piece.command[0]) for piece in chosen}
        missing = left_out(list(suites), chosen)
        assert run | set(missing) | {"all"} >= set(suites)
        if not quick:
            assert set(missing) <= set(NOT_RUN) | {"whole-job"}
    names = [piece.name for piece in pieces("cuda", False, False)]
    assert names[:2] == ["gpu-tests", "graph-replays"]


def test_the_page_shows_every_kind_of_result():
    def piece(name: str, status: str = "done", result: dict | None = None, reason: str | None = None) -> dict:
        shown = {"name": name, "title": f"<{name}>", "command": ["x.py"], "status": status, "seconds": 1.0}
        return shown | {"result": result, "reason": reason}

    stored = ("sample_paper_v2", "ops", "decode_bart_base", "loss_parity_small", "onnx_bart_base")
    shown = [
        piece(name, result=json.loads((ROOT / f"benchmarks/results/{name}_cpu_avx512.json").read_text()))
        for name in (*stored, "precision_drift_e2e", "train_diffusion_paper_v2")
    ]
    replay = {"config": "small", "sampler": "ddim", "difference": 0.0, "fault": None}
    profiled = {"name": "replayed", "batch": 1} | launch_gaps.time_of_kernels([("gemm", 0, 2), ("add", 3, 4)])
    shown += [
        piece("replays", result={"replays": [replay], "errors": ["<b>ran eagerly</b>"]}),
        piece("profiles", result={"profiles": [profiled]}),
        piece("tests", "failed", {"passed": 3, "failed": ["test_x: no"], "skipped": []}, "exit code 1"),
    ]
    machine = {"name": "A <GPU>", "threads": 2, "features": ["avx2"]}
    html = page({"device": machine, "cpu": machine, "versions": {}, "pieces": shown, "missing": {"a": "b"}})
    assert "Its figures are in bench.json" not in html
    for text in (
        "engine, int8",
        "reference compiled",
        "beam",
        "int8",
        "gemm",
        "test_x: no",
        "A &lt;GPU&gt;",
        "7.4",
    ):
        assert text in html, text
    assert "<b>ran eagerly" not in html and "&lt;b&gt;ran eagerly" in html and "<script" not in html
    assert html.count("<section") == html.count("</section>") == len(shown) + 3


class FakeGraph:
    """A CUDA graph that only remembers what to run."""

    run = staticmethod(lambda: None)

    def capture_end(self) -> None:
        pass

    def replay(self) -> None:
        self.run()


@pytest.fixture
def graphs(monkeypatch):
    """Captures on a CPU, by `FakeGraph`."""

    def capture(_, run):
        graph = torch.cuda.CUDAGraph()
        graph.run = run
        graph.capture_end()
        return graph.replay

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", capture)


def sampled(cuda_graph: bool, sampler: str, num_inference_steps: int, **options) -> torch.Tensor:
    classes, plan = torch.tensor([0, 1]), Plan(sampler, num_inference_steps, **options)
    run = SamplingRun(make_model(num_classes=3), plan, seed=0, classes=classes)
    run.cuda_graph = cuda_graph
    return run(torch.arange(2), class_id=classes)


def test_replayed_steps_are_compared_with_eager_ones(graphs):
    rows = graph_replays.compare(sampled, SAMPLERS, (3, 7), graph_replays.GUIDED)
    assert len(rows) == len(SAMPLERS) * 2 * len(graph_replays.GUIDED)
    assert [row["fault"] for row in rows if row["fault"]] == []
    assert {row["replays"] for row in rows if row["guidance"] == "none" and row["steps"] == 7} == {6}
    assert {(row["captures"], row["replays"]) for row in rows if row["guidance"] == "the middle"} >= {(2, 5)}


def test_a_graph_that_differs_or_is_not_replayed_is_an_error(graphs, monkeypatch):
    (row,) = graph_replays.compare(lambda cuda_graph, **o: sampled(False, **o), ["ddpm"], [7], ["none"])
    assert "its graph was replayed 0 times, not 6" in row["fault"]
    monkeypatch.setattr(FakeGraph, "replay", lambda self: None)
    (row,) = graph_replays.compare(sampled, ["ddpm"], [7], ["none"])
    assert "replayed latents differ" in row["fault"]


def test_captures_after_the_warm_up_are_an_error(graphs):
    with counted_graphs() as counts:
        kept = torch.cuda.CUDAGraph()
        kept.capture_end()
        steady, fresh = (
            CountedCall(kept.replay, counts),
            CountedCall(lambda: torch.cuda.CUDAGraph().capture_end(), counts),
        )
        steady(), steady(), fresh()
    assert counts == GraphCounts(captures=2, replays=2) and torch.cuda.CUDAGraph is FakeGraph
    assert graph_fault("x", steady.last, most_captures=0, fewest_replays=1) is None
    assert "1 graphs were captured" in graph_fault("x", fresh.last, most_captures=0, fewest_replays=0)


def test_time_between_launches():
    found = launch_gaps.time_of_kernels(
        [("gemm", 0, 40), ("gemm", 30, 60), ("add", 80, 90), ("add", 95, 100)]
    )
    assert found["busy"] == pytest.approx(0.75) and found["span_ms"] == pytest.approx(0.1)
    assert found["gaps"] == {"number": 2, "total_ms": 0.025, "median_us": 20, "largest_us": 20}
    assert [(row["name"], row["calls"]) for row in found["top"]] == [("gemm", 2), ("add", 2)]
    assert found["top"][0]["share"] == pytest.approx(70 / 85)
    assert launch_gaps.time_of_kernels([])["busy"] is None


def test_outcomes_of_the_gpu_tests(tmp_path):
    cases = (
        '<testcase classname="a" name="fine"/><testcase classname="a" name="bad"><failure message="1 != 2&#10;x"/>'
        '</testcase><testcase classname="a" name="broken"><error message="gone"/></testcase>'
        '<testcase classname="" name="b"><error message="collection failure">ModuleNotFoundError: No module named '
        "'hydra'</error></testcase>"
        '<testcase classname="a" name="off"><skipped message="why"/></testcase>'
    )
    (tmp_path / "r.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    found = gpu_tests.outcomes(tmp_path / "r.xml")
    assert found == {
        "passed": 1,
        "failed": ["a::bad: 1 != 2", "a::broken: gone"],
        "skipped": ["::b: No module named 'hydra'", "a::off: why"],
    }
    assert len(gpu_tests.test_files()) >= 4


def test_memory_that_a_call_adds():
    small = added_peak_mib(lambda: None, "cpu")
    if small is None:
        pytest.skip("the high-water mark of this process cannot be reset")
    assert small < 8
    assert 60 < added_peak_mib(lambda: torch.ones(2**24), "cpu") < 80, "freed again, and seen all the same"


def test_precisions_that_a_device_has():
    found = available_precisions("cpu")
    assert "fp32" in found and not {"tf32", "fp8", "fp16"} & set(found)
    assert ("bf16" in found) == bool(torch.cpu.get_capabilities().get("avx512_bf16"))
