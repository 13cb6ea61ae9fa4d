"""Opening a run directory: what is to be done with what lies there, first decided, then done."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from importlib import resources
from pathlib import Path

from accelerate.utils import parse_flag_from_env
from omegaconf import DictConfig, OmegaConf

from ld4lg_fast.console import console
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.training import stored_config
from ld4lg_fast.training.options import read_options
from ld4lg_fast.training.run_directory import RunDirectory


class Opening(Enum):
    """NEW: an empty directory. STUDENT: one that gets a teacher's first stage. ADAPTED: one that gets another run's
    denoiser. GO_ON: resume, or a second stage on a
    finished first one. The others begin anew after moving what is there: all of it, or all but the results of the first
    stage."""

    NEW = "new"
    STUDENT = "student"
    ADAPTED = "adapted"
    GO_ON = "go on"
    MOVE_ALL = "move all"
    MOVE_SECOND_STAGE = "move second stage"


@dataclass(frozen=True)
class Plan:
    """The config to train with and how the directory is opened."""

    run: RunDirectory
    config: DictConfig
    groups: dict[str, str]
    opening: Opening


def resume_command(run: RunDirectory) -> str:
    """What to type to go on with an interrupted run, with as many processes as now and the model as sharded."""
    script = sys.argv[0]
    program = [script] if script.endswith("train.py") else ["-m", "ld4lg_fast.training"]
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    launcher = ["python"] if processes == "1" else ["torchrun", "--nproc_per_node", processes]
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        fsdp2 = str(resources.files("ld4lg_fast.configs") / "accelerate" / "fsdp2.yaml")
        launcher = ["accelerate", "launch", "--config_file", fsdp2, "--num_processes", processes]
    return shlex.join([*launcher, *program, "resume=true", f"hydra.run.dir={run.path}"])


def plan(run: RunDirectory, config: DictConfig, groups: dict[str, str], overrides: Sequence[str]) -> Plan:
    """Decides, and changes nothing.

    Raises:
        ConfigError: a directory of something else, nothing to go on with, or options that contradict the run.
    """
    run.check_ours()
    stage, resume = config.train.stage, config.resume
    given = {name: config.train[name] for name in ("distill_from", "adapt_from") if config.train[name]}
    if len(given) > 1:
        raise ConfigError(
            "train.distill_from and train.adapt_from cannot be combined; give one after the other."
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
        opening = Opening.STUDENT if distils else Opening.ADAPTED
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
        if config.train.stage == "diffusion" and not run.has_autoencoder:
            raise ConfigError(
                f"The autoencoder in {run.path} is not finished; go on with train.stage=autoencoder resume=true first."
            )
        second = not resume and run.has_diffusion_stage
        opening = Opening.MOVE_SECOND_STAGE if second else Opening.GO_ON
    else:
        opening = Opening.MOVE_ALL
    read_options(OmegaConf.to_container(config.train, resolve=True))
    return Plan(run, config, groups, opening)


def carry_out(plan: Plan) -> None:
    """Moves what has to be moved, says so, and writes ``config.yaml``."""
    run = plan.run
    if plan.opening is Opening.MOVE_ALL:
        aside = run.move_aside()
        console.print(
            f"{run.path} already held a run, which is now {aside}. To go on with that one instead:\n"
            f"  {resume_command(RunDirectory(aside))}",
            markup=False,
            highlight=False,
        )
    elif plan.opening is Opening.MOVE_SECOND_STAGE:
        aside = run.move_aside(keep_stage_one=True)
        console.print(
            f"{run.path} already had a diffusion stage: that run is now {aside}, and a new diffusion stage starts "
            f"from a copy of its autoencoder.",
            markup=False,
            highlight=False,
        )
    elif plan.opening is Opening.STUDENT:
        run.copy_stage_one(Path(plan.config.train.distill_from))
    elif plan.opening is Opening.ADAPTED:
        run.copy(Path(plan.config.train.adapt_from), ("denoiser",))
    stored = plan.config.copy()
    stored.resume = False
    stored_config.store(run.config, stored, plan.groups)
