"""Two machines, as two launchers with folders, caches and ports of their own, train what one process does."""

import os
import shlex
import socket
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.training import main
from ld4lg_fast.training.run_setup import resume_command
from tests.training.small_runs import SMALL, losses

OPTIONS = [
    *SMALL,
    "dataset=demo",
    "dataset.num_examples=60",
    "model.language_model.dropout=0",
    "model.denoiser.dropout=0",
    "train.share_latents=true",
    "train.autoencoder.steps=4",
    "train.diffusion.steps=4",
    "train.validation_texts=5",
    "train.validation_samples=2",
    "train.validation_num_inference_steps=2",
]
CONFIG = resources.files("ld4lg_fast.configs") / "accelerate" / "ddp.yaml"
MOST = 600  # seconds that a busy machine may take


def launched(folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Exit codes and output of the launchers of two machines, each in a folder of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(2):
        own = folder / f"machine_{rank}"
        own.mkdir(parents=True)
        place = {"HF_DATASETS_CACHE": str(own / "cache"), "TMPDIR": str(own)}
        command = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)),
            *("--num_machines", "2", "--num_processes", "2", "--machine_rank", str(rank)),
            *("--main_process_ip", "127.0.0.1", "--main_process_port", str(port)),
            *("-m", "ld4lg_fast.training", *OPTIONS, *arguments),
        ]
        with open(own / "output.txt", "w") as output:
            environment = os.environ | place | {"OMP_NUM_THREADS": "1"}
            process = subprocess.Popen(command, cwd=own, env=environment, stdout=output, stderr=output)
        started.append((process, own / "output.txt"))
    try:
        return [(process.wait(MOST), path.read_text()) for process, path in started]
    finally:
        for process, _ in started:
            process.kill()


def test_two_machines_learn_what_one_process_learns(tmp_path, monkeypatch):
    run, alone = tmp_path / "shared" / "run", tmp_path / "alone"
    for code, output in launched(tmp_path, f"hydra.run.dir={run}"):
        assert code == 0, output
    caches = [tmp_path / f"machine_{rank}" / "cache" for rank in range(2)]
    latents = [[path.read_bytes() for path in cache.rglob("*.safetensors")] for cache in caches]
    assert latents[0] == latents[1] and len(latents[0]) == 1, "each machine has all latents"
    assert not (tmp_path / "machine_1" / "outputs").exists()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    main([*OPTIONS, f"hydra.run.dir={alone}"])
    for stage in ("autoencoder", "diffusion"):
        assert losses(run, stage) == pytest.approx(losses(alone, stage), rel=1e-4)
        assert len(losses(run, stage)) == 4


def test_machines_that_do_not_share_the_run_directory_are_refused(tmp_path):
    codes, outputs = zip(*launched(tmp_path), strict=True)
    assert codes == (1, 1)
    # The launcher of one machine may end its process when that of the other has ended.
    lines = {line for output in outputs for line in output.splitlines() if line.startswith("error: ")}
    (said,) = lines
    host, place = socket.gethostname(), tmp_path / "machine_0" / "outputs" / "demo"
    assert said == (
        f"error: hydra.run.dir=outputs/demo on {host} is not the folder {place} of the main process on {host}; give "
        "all processes the same hydra.run.dir, on a file system that their machines share."
    )
    assert not list(tmp_path.glob("machine_*/outputs")), "nothing was touched"


def test_a_run_on_two_machines_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ld4lg_fast/training/__main__.py"])
    sizes = {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
    for name, value in {**sizes, "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    words = shlex.split(resume_command(RunDirectory(tmp_path)))
    assert words[:2] == ["accelerate", "launch"] and words[3] == str(CONFIG)
    assert words[4:12] == shlex.split(
        "--num_processes 4 --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1"
    )
    assert words[12:16] == ["--main_process_port", "29500", "-m", "ld4lg_fast.training"]
    assert words[16:] == ["resume=true", f"hydra.run.dir={tmp_path}"]
