"""`train.profile`: where the time of a step goes."""

import gzip
import json
import sys

import torch

from ld4lg_fast.models.layers import GEGLUFeedForward
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.profiling import COUNTED, Profile, counted_operations
from ld4lg_fast.training.train_step import TrainStep
from tests.training.small_runs import command, losses
from tests.training.test_train_step import RATE, make_session, make_stage


def test_a_profile_accounts_for_the_whole_step(tmp_path):
    session = make_session()
    train_step = TrainStep(make_stage(session), session)
    train_step.profile = profile = Profile("diffusion", 8, torch.device("cpu"), torch.float32)
    for step in range(Profile.STEPS):
        assert not profile.is_over
        with profile.step():
            train_step(step, RATE)
    assert profile.is_over
    parts = sum(profile.seconds[name] for name in ("data", "forward", "backward", "optimiser"))
    assert 0.8 * profile.seconds["step"] < parts <= profile.seconds["step"]
    # Products alone, forward and backward, without the self-conditioning pass.
    weights = sum(p.numel() for n, p in train_step.trained.named_parameters() if n.endswith("qkv.weight"))
    assert profile.flops / COUNTED > 6 * weights * 8 * 6
    page = profile.write(tmp_path).read_text()
    assert all(f"| {name} |" in page for name in ("samples/s", "MFU", "data", "backward", "peak memory"))
    assert (tmp_path / "profile_diffusion.json.gz").stat().st_size > 1000


def test_what_is_counted_is_compiled_afterwards():
    compiled = []

    def compiler(graph, inputs):
        compiled.extend(node for node in graph.graph.nodes if "linear" in str(node.target))
        return graph.forward

    region = GEGLUFeedForward(64)
    region.compile(backend=compiler)
    with counted_operations() as counter:
        region(torch.randn(2, 3, 64))
    assert counter.get_total_flops() == 2 * 6 * 64 * (512 + 256) and not compiled
    region(torch.randn(2, 3, 64))
    assert len(compiled) == 2, "both products"


def test_a_profiled_run_leaves_a_trace_and_a_page_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["scripts/train.py"])
    steps, run_dir = Profile.STEPS + 2, tmp_path / "run"
    with console.capture() as output:
        command(run_dir, "train.profile=true", f"train.diffusion.steps={steps}")
    logs = run_dir / "logs"
    assert f"Profile: {logs / 'profile_diffusion.md'}" in output.get()
    assert "The autoencoder stage was too short for a profile" in output.get()
    assert sorted(path.name for path in logs.glob("profile_*")) == [
        "profile_diffusion.json.gz",
        "profile_diffusion.md",
    ]
    events = json.loads(gzip.decompress((logs / "profile_diffusion.json.gz").read_bytes()))["traceEvents"]
    assert {"data", "forward", "backward", "optimiser"} <= {event.get("name") for event in events}
    assert list(losses(run_dir, "diffusion")) == list(range(1, steps + 1))
