"""Opens a run directory: decides how to treat its content, checks the config, then makes the changes."""

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path
from typing import Any

from accelerate.utils import parse_flag_from_env
from omegaconf import DictConfig, OmegaConf

from ld4lg_fast.checkpoints import stored_config
from ld4lg_fast.checkpoints.run_directory import STAGE_ONE_RESULTS, RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.option_checks import Switch
from ld4lg_fast.options.checks import check
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.hydra_arguments import override, shell_command
from ld4lg_fast.training.config_sections import check_model_options, check_sections
from ld4lg_fast.training.train_section import RULES, read_options


class Opening(Enum):
    """How the run directory is opened.

    NEW: it is empty. STUDENT: it is empty and gets the teacher's autoencoder. FINETUNED_DECODER: it is empty and gets
    another run's denoiser. RESUME: training continues, or the second stage starts on a finished first one. MOVE_ALL,
    MOVE_SECOND_STAGE: training starts again after the old content (or all but the first stage's results) is moved.
    """

    NEW = "new"
    STUDENT = "student"
    FINETUNED_DECODER = "finetuned decoder"
    RESUME = "resume"
    MOVE_ALL = "move all"
    MOVE_SECOND_STAGE = "move second stage"


# Sections that a finished first stage, or a whole run, fixes.
FIRST_STAGE = ("model.language_model", "model.perceiver", "autoencoder", "dataset.max_len")
SEEN_WITHIN = 10.0  # seconds in which network file systems show other machines a new file
BOTH_STAGES = ("model", "autoencoder", "recipe", "dataset.max_len", "dataset.source_max_len")


@dataclass(frozen=True)
class Plan:
    """The config to train with, and how the directory is opened."""

    run: RunDirectory
    config: DictConfig
    groups: dict[str, str]
    opening: Opening

    @property
    def values(self) -> dict[str, Any]:
        """The config as plain values."""
        return _values(self.config)


def resume_command(run: RunDirectory) -> str:
    """The command that resumes an interrupted run with the same number of processes and the same sharding.

    Of several machines it is that of the first; the others have their own ``--machine_rank``.
    """
    script = sys.argv[0]
    program = [script] if script.endswith("train.py") else ["-m", "ld4lg_fast.training"]
    processes, sharded = os.environ.get("LOCAL_WORLD_SIZE", "1"), parse_flag_from_env("ACCELERATE_USE_FSDP")
    machines = int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    launcher = ["python"] if processes == "1" else ["torchrun", "--nproc_per_node", processes]
    if processes == "1" and not sharded and Path(script).name == "ld4lg":
        launcher, program = ["ld4lg"], ["train"]
    if sharded or machines > 1:
        settings = (
            resources.files("ld4lg_fast.configs") / "accelerate" / f"{'fsdp2' if sharded else 'ddp'}.yaml"
        )
        number = os.environ["WORLD_SIZE"] if machines > 1 else processes
        launcher = ["accelerate", "launch", "--config_file", str(settings), "--num_processes", number]
    if machines > 1:
        launcher += ["--num_machines", str(machines), "--machine_rank", "0"]
        launcher += ["--main_process_ip", os.environ["MASTER_ADDR"]]
        launcher += ["--main_process_port", os.environ["MASTER_PORT"]]
    return shell_command(*launcher, *program, "resume=true", override("hydra.run.dir", run.path))


def next_command(run: RunDirectory) -> str:
    """The command to run after training: sample, or train the denoiser where there is none."""
    script = Path(sys.argv[0])
    checkout = script.name == "train.py"  # without one there are no scripts
    if not run.has_denoiser:
        program = ("python", script) if checkout else ("ld4lg", "train")
        return shell_command(*program, "train.stage=diffusion", override("hydra.run.dir", run.path))
    if checkout:
        return shell_command("python", script.with_name("infer.py"), override("infer.output_dir", run.path))
    return shell_command("ld4lg", "sample", run.path)


def plan(run: RunDirectory, config: DictConfig, groups: dict[str, str], overrides: Sequence[str]) -> Plan:
    """Decides how to open the directory and checks the config; changes nothing on disk.

    Raises:
        ConfigError: the directory is not a run, there is nothing to resume, options contradict the run, or a value is
            invalid.
    """
    composed = _values(config)
    check_sections(composed)
    check("resume", composed.get("resume"), Switch())
    for name in ("stage", "distill_from", "finetune_decoder_from"):
        check(f"train.{name}", composed["train"].get(name), RULES[name])
    stage, resume = config.train.stage, config.resume
    given = {
        name: config.train[name] for name in ("distill_from", "finetune_decoder_from") if config.train[name]
    }
    if len(given) > 1:
        raise ConfigError(
            "train.distill_from and train.finetune_decoder_from cannot be combined; give one after the other."
        )
    if given and not resume:
        [(option, path)] = given.items()
        other = RunDirectory(path)
        if not other.has_denoiser:
            raise ConfigError(
                f"train.{option}={other.path} is no finished run; name one that has a denoiser."
            )
        if not run.is_empty():
            raise ConfigError(
                f"{run.path} is not empty; train.{option} needs a run directory of its own, give a new one with "
                "hydra.run.dir=..., or go on with resume=true."
            )
        config, groups = stored_config.load_with_overrides(other.config, overrides)
        distils = option == "distill_from"
        config.train.stage = "diffusion" if distils else "decoder"
        check_config(_values(config))
        _check_kept(other, config, BOTH_STAGES)
        opening = Opening.STUDENT if distils else Opening.FINETUNED_DECODER
    elif run.is_empty():
        if resume:
            raise ConfigError(f"There is no run in {run.path} to resume; leave resume=true out to start one.")
        if stage == "diffusion":
            raise ConfigError(
                f"train.stage=diffusion needs a run directory with a trained autoencoder, but {run.path} is empty; "
                "give one with hydra.run.dir=..., or use train.stage=all."
            )
        opening = Opening.NEW
    elif resume or stage == "diffusion":
        config, groups = stored_config.load_with_overrides(run.config, overrides)
        check_config(_values(config))
        if config.train.stage == "diffusion" and not run.has_autoencoder:
            raise ConfigError(
                f"The autoencoder in {run.path} is not finished; go on with train.stage=autoencoder resume=true first."
            )
        if config.train.stage == "diffusion" or run.has_diffusion_stage:
            _check_kept(run, config, FIRST_STAGE)
        second = not resume and run.has_diffusion_stage
        opening = Opening.MOVE_SECOND_STAGE if second else Opening.RESUME
    else:
        opening = Opening.MOVE_ALL
    check_config(_values(config))
    return Plan(run, config, groups, opening)


def check_same_folder(run: RunDirectory, of_main: Path, holder: Mapping) -> None:
    """Checks that this process sees the folder that the main process has locked, as all processes read what it writes.

    Args:
        run: the run directory as this process was given it. of_main: the main process's, on its machine.
        holder: what the main process has written into the lock.

    Raises:
        ConfigError: it is another folder, as on a machine with a disk of its own.
    """
    lock, end = RunLock(run.path), time.monotonic() + SEEN_WITHIN
    while lock.holder() != holder:
        if time.monotonic() > end:
            raise ConfigError(
                f"hydra.run.dir={run.path} on {socket.gethostname()} is not the folder {of_main} of the "
                f"main process on {holder['host']}; give all processes the same hydra.run.dir, on a file system that "
                "their machines share."
            )
        time.sleep(0.1)


def _values(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def check_config(config: Mapping[str, Any]) -> None:
    """Checks every section of a config.

    Raises:
        ConfigError: the first value of the wrong type or out of range.
    """
    check_sections(config)
    read_options(config["train"])
    check_model_options(config)


def _check_kept(run: RunDirectory, config: DictConfig, sections: Sequence[str]) -> None:
    """Checks that options which the trained models depend on have not changed.

    Raises:
        ConfigError: names the option and the value that the run has.
    """
    stored, _ = stored_config.load_with_overrides(run.config, ())
    for section in sections:
        old, new = (OmegaConf.select(OmegaConf.create(_values(c)), section) for c in (stored, config))
        both = [OmegaConf.to_container(x) if OmegaConf.is_config(x) else {"": x} for x in (old, new)]
        before, after = (_flat(section, values) for values in both)
        for name in sorted((before.keys() | after.keys()) - set(stored_config.CONSENTS)):
            if before.get(name) != after.get(name):
                raise ConfigError(
                    f"{name}={after.get(name)} cannot be changed: the models in {run.path} were trained with "
                    f"{before.get(name)}; leave it out, or train a new run."
                )


def _flat(name: str, values: object) -> dict[str, object]:
    """Nested options by their dotted names."""
    if not isinstance(values, Mapping):
        return {name.rstrip("."): values}
    parts = (_flat(f"{name}.{key}", value) for key, value in values.items())
    return {key: value for part in parts for key, value in part.items()}


def prepare_directory(plan: Plan, lock: RunLock) -> None:
    """Moves or copies files as planned, prints what was moved, and writes ``config.yaml``.

    Raises:
        CheckpointError: the disk is full or cannot be written to; the old content is still in place.
    """
    run = plan.run
    if plan.opening is Opening.MOVE_ALL:
        aside = run.move_aside(lock)
        console.print(
            f"{run.path} already held a run, which is now {aside}. To go on with that one instead:",
            f"  {resume_command(RunDirectory(aside))}",
            sep="\n",
        )
    elif plan.opening is Opening.MOVE_SECOND_STAGE:
        aside = run.move_aside(lock, STAGE_ONE_RESULTS)
        console.print(
            f"{run.path} already had a diffusion stage: that run is now {aside}, and a new diffusion stage starts "
            f"from a copy of its autoencoder."
        )
    elif plan.opening is Opening.STUDENT:
        run.copy(Path(plan.config.train.distill_from), STAGE_ONE_RESULTS)
    elif plan.opening is Opening.FINETUNED_DECODER:
        run.copy(Path(plan.config.train.finetune_decoder_from), ("denoiser", run.cache.name))
    stored = plan.config.copy()
    stored.resume = False
    stored_config.store(run.config, stored, plan.groups)
