"""The parts of the training package, each alone."""

import ctypes
import json
import math
import subprocess
import sys

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from torch import nn

from ld4lg_fast.checkpoints import stored_config
from ld4lg_fast.checkpoints.run_directory import STAGE_ONE_RESULTS, RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.ema import Ema
from ld4lg_fast.training.optimization import (
    learning_rate,
    make_optimizer,
)
from ld4lg_fast.training.seeding import StepBatches, step_generator, step_seed
from ld4lg_fast.training.time_budget import LONGEST_EVALUATION, RunClock, StageClock
from ld4lg_fast.training.train_section import StageOptions, read_options

OPTIONS = StageOptions(100, 8, 1e-3, 10, 0.1, 1.0, 0.999)
GROUPS = ("tiny", "small", "base"), ("scratch", "bart", "t5", "mt5")


def composed(*overrides):
    with initialize_config_module("ld4lg_fast.configs", version_base="1.3"):
        return compose("train", list(overrides))


@pytest.mark.parametrize("model", GROUPS[0])
@pytest.mark.parametrize("autoencoder", GROUPS[1])
def test_all_groups_compose_and_their_options_are_valid(model, autoencoder):
    config = composed(f"model={model}", f"autoencoder={autoencoder}")
    options = read_options(OmegaConf.to_container(config.train, resolve=True))
    assert (config.autoencoder.name_or_path is None) == (autoencoder == "scratch")
    assert config.recipe.l2_normalized == config.model.perceiver.l2_normalize
    if model == "base":
        published = options.diffusion
        assert (published.steps, published.batch_size, published.ema_decay) == (250_000, 128, 0.9999)
        assert (published.learning_rate, published.weight_decay) == (2e-4, 1e-6)
        assert (options.autoencoder.steps, options.autoencoder.batch_size) == (50_000, 256)


@pytest.mark.parametrize("model", GROUPS[0])
@pytest.mark.parametrize("recipe", ["v2", "v3"])
def test_denoiser_sizes_fit_the_recipe(model, recipe):
    config = OmegaConf.to_container(composed(f"model={model}", f"recipe={recipe}"), resolve=True)
    sizes = config["model"]["denoiser"] | {"dim_latent": 8, "max_len": 4}
    with torch.device("meta"):
        denoiser = LatentDiffusion.create(config["recipe"], sizes).denoiser
    if model == "base":
        assert (denoiser.config.dim, denoiser.config.depth) == (768, 12)
        assert denoiser.config.num_dense_connections == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.stage=first", "all, autoencoder, diffusion"),
        ("train.max_minutes=soon", "must be a finite number above 0 and at most 10000000, or null"),
        ("train.autoencoder_share=1.5", "from 0.01 to 0.99"),
        ("train.diffusion.steps=0", "a whole number from 1 to"),
        ("train.diffusion.steps=1.5", "a whole number"),
        ("train.log_every=true", "a whole number"),
        ("train.mixed_precision=fp16", "auto, no, bf16"),
        ("train.diffusion=3", "group of options"),
        ("train.compile=yes", "auto, true or false"),
        ("train.profile=3", "true or false"),
        ("train.diffusion.micro_batches=0", "a whole number from 1 to"),
        ("+train.speed=3", "train.speed does not exist"),
    ],
)
def test_wrong_options_are_refused(override, said):
    section = OmegaConf.to_container(composed(override).train)
    with pytest.raises(ConfigError, match=said):
        read_options(section)


@pytest.mark.parametrize("package", ["wandb", "tensorboard"])
def test_a_tracker_without_its_package_is_refused(package, monkeypatch):
    monkeypatch.setattr("ld4lg_fast.training.train_section.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        read_options(OmegaConf.to_container(composed(f"train.{package}=true").train))


@pytest.mark.parametrize(("capabilities", "precision"), [({"avx512_bf16": True}, "bf16"), ({}, "no")])
def test_auto_precision_is_what_the_processor_is_fast_in(capabilities, precision, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capabilities)
    section = OmegaConf.to_container(composed("train.mixed_precision=auto").train)
    assert read_options(section).precision == precision
    assert read_options(section | {"mixed_precision": "no"}).precision == "no"


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept():
    program = """
import torch
from ld4lg_fast.training.malloc_settings import keep_freed_memory
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
def left():
    before, block = resident(), torch.ones(2**26)
    del block
    return resident() - before
torch.ones(2**26)
usual = left()
keep_freed_memory()
print(usual, left())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    usual, kept = map(int, done.stdout.split())
    assert usual < 2**26 < 2**27 < kept, "a block of 256 MiB"


def test_average_follows_its_formula():
    model = nn.Linear(3, 2)
    ema = Ema(model, max_decay=0.5)
    expected = None
    for step in range(4):
        with torch.no_grad():
            model.weight.normal_()
        decay = min(0.5, 1 - (1 + step) ** -0.75)
        expected = model.weight.clone() if step == 0 else decay * expected + (1 - decay) * model.weight
        ema.update(1 - ema.decay(step))
        torch.testing.assert_close(ema.module.weight, expected)
    assert not ema.module.weight.requires_grad and not ema.module.training
    assert Ema(model).decay(10**9) == 0.9999


def test_learning_rate_warms_up_and_decays_to_zero_in_steps_or_time():
    rates = [learning_rate(OPTIONS, step, step / 100) for step in range(101)]
    assert rates[0] == pytest.approx(1e-4) and rates[100] == 0
    assert max(rates) == rates[9] and rates[50] == pytest.approx(5e-4)
    assert learning_rate(OPTIONS, 50, 1.0) == 0, "a run at the end of its time has decayed fully"


def test_vectors_are_not_decayed_and_frozen_weights_not_trained():
    model = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 3).requires_grad_(False))
    decayed, plain = make_optimizer(model, OPTIONS).param_groups
    assert [p.dim() for p in decayed["params"]] == [2] and decayed["weight_decay"] == 0.1
    assert [p.dim() for p in plain["params"]] == [1, 1, 1] and plain["weight_decay"] == 0


def test_seeds_differ_by_seed_stage_and_step():
    seeds = {step_seed(seed, stage, step) for seed in (0, 1) for stage in ("a", "b") for step in range(50)}
    assert len(seeds) == 200 and all(0 <= seed < 2**63 for seed in seeds)
    first, second = (torch.rand(3, generator=step_generator(1, "a", 2)) for _ in range(2))
    assert first.equal(second)


def test_batches_are_the_same_whatever_step_is_asked_first():
    def make():
        return StepBatches(10, 3, seed=5)

    in_order, at_once = make(), make()
    wanted = [in_order[step] for step in range(9)]
    assert [at_once[step] for step in (8, 1, 4)] == [wanted[8], wanted[1], wanted[4]]
    assert len({index for batch in wanted[:3] for index in batch}) == 9
    assert wanted[:3] != wanted[3:6]


def test_clock_counts_earlier_sessions_and_keeps_time_for_evaluation():
    assert (
        StageClock(RunClock(None), 0.0, None).progress() == 0
        and not StageClock(RunClock(None), 0, None).is_over()
    )
    run = RunClock(100.0, earlier=50.0)
    assert run.seconds() >= 50
    stage = StageClock(run, start=10.0, end=run.end_of(0.5))
    assert stage.progress_at(10) == 0 and stage.progress_at(10 + 37 / 2) == pytest.approx(0.5)
    assert stage.progress_at(47) == 1 and stage.is_over()
    long = StageClock(RunClock(1e6), 0, 1e6)
    assert long.progress_at(1e6 - LONGEST_EVALUATION) == 1 > long.progress_at(1e6 - 2 * LONGEST_EVALUATION)
    assert StageClock(run, start=60.0, end=50.0).progress() == 1


@pytest.mark.parametrize(("seconds", "said"), [(75.2, "1:15"), (0, "0:00"), (3661, "1:01:01")])
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_stored_config_takes_plain_overrides_and_refuses_other_groups(tmp_path):
    path = tmp_path / "config.yaml"
    groups = {"dataset": "demo", "model": "tiny", "autoencoder": "scratch", "recipe": "v2"}
    stored_config.store(path, composed("dataset=demo", "model=tiny", "seed=7"), groups)
    assert stored_config.is_run_config(path)
    overrides = [
        "hydra.run.dir=x",
        "model=tiny",
        "train.diffusion.steps=5",
        "resume=true",
        "+dataset.limit=3",
    ]
    config, same = stored_config.load_with_overrides(path, overrides)
    assert same == groups and config.seed == 7 and config.resume is True
    assert config.train.diffusion.steps == 5 and config.dataset.limit == 3
    assert config.recipe.l2_normalized is True, "interpolations still work"
    with pytest.raises(ConfigError, match="has model=tiny and cannot go on with model=base"):
        stored_config.load_with_overrides(path, ["model=base"])


def test_a_command_line_that_goes_on_is_composed_on_the_groups_of_its_run(tmp_path, monkeypatch):
    groups = {"dataset": "demo", "model": "tiny", "autoencoder": "scratch", "recipe": "v3"}
    choices = [f"{name}={choice}" for name, choice in groups.items()]
    stored_config.store(tmp_path / "outputs" / "demo" / "config.yaml", composed(*choices), groups)
    monkeypatch.chdir(tmp_path)
    place, option = "hydra.run.dir=outputs/demo", "recipe.self_condition_noise=0.2"
    for going_on in ("resume=true", "train.stage=diffusion"):
        arguments = stored_config.with_stored_groups([going_on, option, place])
        assert arguments == [going_on, option, place, *choices]
        assert composed(*arguments[1:2], *choices).recipe.self_condition_noise == 0.2
        # The directory that the data set alone leads to; a choice of one's own stays.
        by_name = stored_config.with_stored_groups([going_on, "dataset=demo", "model=base"])
        assert by_name == [going_on, "dataset=demo", "model=base", "autoencoder=scratch", "recipe=v3"]
    for arguments in (
        [option, place],
        ["resume=false", place],
        ["resume=true", "hydra.run.dir=elsewhere"],
        ["resume=true", "dataset=none"],
        ["resume=true", "a=[", place],
    ):
        assert stored_config.with_stored_groups(arguments) == arguments


@pytest.mark.parametrize("content", ["", "- a\n- b\n", "a: 1\n", "{broken", "\x00"])
def test_other_files_are_not_taken_for_a_config(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(content)
    assert not stored_config.is_run_config(path)


def test_moving_aside_finds_a_free_name_and_may_keep_the_first_stage(tmp_path):
    run = RunDirectory(tmp_path / "run")
    (tmp_path / "run.1").mkdir()
    run.autoencoder.mkdir(parents=True)
    (run.autoencoder / "autoencoder.json").write_text("{}")
    run.reconstruction.write_text("{}")
    run.denoiser.mkdir()
    lock = RunLock(run.path)
    lock.acquire()
    assert run.move_aside(lock, STAGE_ONE_RESULTS) == tmp_path / "run.2"
    assert run.has_autoencoder and run.reconstruction.exists() and not run.denoiser.exists()
    assert (tmp_path / "run.2" / "denoiser").is_dir()
    assert run.move_aside(lock) == tmp_path / "run.3" and run.is_empty()
    assert [path.name for path in run.path.iterdir()] == [".lock"], "the lock is on the new directory"
    assert not list(tmp_path.glob("run.*/.lock"))
    lock.release()


def test_a_run_directory_that_is_something_else_is_refused(tmp_path):
    RunDirectory(tmp_path / "new").check_ours()
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(ConfigError, match="holds no run of ld4lg-fast"):
        RunDirectory(tmp_path).check_ours()
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory(tmp_path / "photo.jpg").check_ours()


def test_the_log_forgets_steps_that_are_done_again(tmp_path, monkeypatch):
    from accelerate import Accelerator

    from ld4lg_fast.training.metrics_log import MetricsLog

    metrics_log = MetricsLog(tmp_path / "logs" / "train.jsonl", Accelerator(cpu=True), autoencoder_steps=10)
    tracked = []
    monkeypatch.setattr(metrics_log.accelerator, "log", lambda values, step: tracked.append((step, values)))
    for step in (1, 2, 3):
        metrics_log.write("diffusion", step, loss=math.pi)
    metrics_log.write("autoencoder", 3, loss=1.0)
    assert tracked[0] == (11, {"diffusion/loss": math.pi}) and tracked[3] == (3, {"autoencoder/loss": 1.0})
    with open(metrics_log.path, "a") as file:
        file.write('{"stage": "diff')
    metrics_log.forget_after("diffusion", 2)
    records = [json.loads(line) for line in metrics_log.path.read_text().splitlines()]
    assert [(r["stage"], r["step"]) for r in records] == [
        ("diffusion", 1),
        ("diffusion", 2),
        ("autoencoder", 3),
    ]
    assert records[0]["loss"] == math.pi
