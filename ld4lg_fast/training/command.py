"""The training command: opens the run directory, trains the stages, prints the next command."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.stored_config import GROUPS, with_stored_groups
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.hydra_entry import Folders, hydra_entry
from ld4lg_fast.terminal.progress import duration
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.interrupts import Interrupted, Interrupts, end_with_launcher
from ld4lg_fast.training.malloc_settings import keep_freed_memory
from ld4lg_fast.training.metrics_log import MetricsLog
from ld4lg_fast.training.run_setup import (
    Plan,
    check_same_folder,
    next_command,
    plan,
    prepare_directory,
    resume_command,
)
from ld4lg_fast.training.session import Session, on_cpu, on_main, start_processes, together
from ld4lg_fast.training.time_budget import RunClock, StageClock
from ld4lg_fast.training.train_section import TrainOptions, read_options
from ld4lg_fast.training.training_record import TrainingRecord, facts_of

if TYPE_CHECKING:
    from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder

STAGES = ("autoencoder", "diffusion", "decoder")


def main(overrides: Sequence[str] | None = None) -> None:
    """Entry point of ``scripts/train.py``; ``overrides`` replace the command line's arguments."""
    sys.argv[1:] = with_stored_groups(sys.argv[1:] if overrides is None else overrides)
    hydra_entry(train, "train")


def train(config: DictConfig) -> int | None:
    """Trains with a composed config; returns an exit code if interrupted.

    A command that fails before the first step leaves the disk unchanged.

    Raises:
        LD4LGError: an error that the user can correct.
    """
    end_with_launcher()
    processes = start_processes()
    console.quiet = not processes.is_main_process
    command = HydraConfig.get()
    run = RunDirectory(_run_dir(command))
    groups: dict[str, Any] = {name: command.runtime.choices.get(name) for name in GROUPS}
    for name, choice in groups.items():
        if not isinstance(choice, str):
            raise ConfigError(f"{name} takes exactly one name, as in {name}=...; several cannot be combined.")
    overrides, lock = list(command.overrides.task), RunLock(run.path)

    def opened() -> tuple[Plan, Path, dict]:
        run.check_ours()
        lock.acquire()
        return plan(run, config, groups, overrides), run.path.resolve(), lock.holder()

    with Interrupts() as interrupts:
        try:
            planned, place, holder = on_main(processes, opened)
            together(processes, lambda: check_same_folder(run, place, holder))
            _train(planned, lock, interrupts)
        except Interrupted as stopped:
            said = ["Stopped before anything was changed."]
            if run.config.exists():
                said = ["Go on with:", f"  {resume_command(run)}"]
            console.print(*said, sep="\n")
            return stopped.exit_code
        finally:
            lock.release()
            end_processes(processes)
    return None


def _run_dir(command: HydraConf) -> str:
    """The run directory: ``hydra.run.dir``, or the job's folder in a sweep with ``hydra.sweep.dir``."""
    of_sweep = command.mode is RunMode.MULTIRUN and command.sweep.dir != str(Folders.of_sweep)
    return command.runtime.output_dir if of_sweep else command.run.dir


def end_processes(processes: PartialState) -> None:
    """Ends the process group and resets Accelerate's state for the next job of a sweep."""
    processes.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def _train(planned: Plan, lock: RunLock, interrupts: Interrupts) -> None:
    run, config = planned.run, planned.values
    options = read_options(config["train"])
    states = {stage: _last_state(run, stage) if config["resume"] else None for stage in STAGES}
    earlier = max((state.run_seconds for state in states.values() if state), default=0.0)
    clock = RunClock(options.max_minutes and 60 * options.max_minutes, earlier)

    # Imported here, as transformers takes seconds: mistakes on the command line are reported before.
    import transformers

    from ld4lg_fast.training.preparation import prepare

    transformers.utils.logging.disable_progress_bar()
    if on_cpu():
        keep_freed_memory()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=options.precision,
        log_with=options.trackers or None,
        project_dir=run.path / "logs" if options.trackers else None,
    )
    metrics_log = MetricsLog(run.log, accelerator, options.autoencoder.steps)
    session = Session(accelerator, run, options, config["seed"], clock, interrupts, metrics_log)
    stages = {stage: _stage_clock(stage, options, states[stage], clock) for stage in _stages(options)}
    finished = [
        stage
        for stage, its_clock in stages.items()
        if config["resume"] and _is_finished(run, options, stage, states[stage], its_clock)
    ]
    prepared = session.interruptible(
        lambda: prepare(config, session, [stage for stage in stages if stage not in finished])
    )
    interrupts.check()
    on_main(accelerator, lambda: _begin(planned, lock, prepared.decoding))
    session.metrics_log.start_trackers("ld4lg-fast", config)
    dataset = prepared.dataset
    if accelerator.is_main_process:
        facts = facts_of(config, dataset, accelerator.device, accelerator.num_processes, options.precision)
        session.record = TrainingRecord(run.training_record, facts)
    console.print(
        f"dataset={dataset.name}: {len(dataset.train)} training and {len(dataset.validation)} validation texts from "
        f"{dataset.origin}; run directory {run.path}"
    )
    work = stage_work(prepared.pretrained)
    for stage, its_clock in stages.items():
        if stage in finished:
            console.print(f"The {stage} stage of {run.path} is finished.")
            continue
        with gpu_settings(accelerator.device):
            work[stage](config, dataset, session, its_clock)
        interrupts.check()
    accelerator.end_training()
    _print_summary(session)


def _begin(planned: Plan, lock: RunLock, decoding: DecodingConfig) -> None:
    """Makes the first changes on disk."""
    prepare_directory(planned, lock)
    with fingerprint.renewed(planned.run.path):
        decoding.save(planned.run.path)


def stage_work(pretrained: "LanguageAutoencoder | None") -> Mapping[str, Callable]:
    """The function that runs each stage."""
    from ld4lg_fast.training.autoencoder_training import train_autoencoder
    from ld4lg_fast.training.decoder_stage import train_decoder
    from ld4lg_fast.training.denoiser_training import train_denoiser

    return {
        "autoencoder": partial(train_autoencoder, pretrained),
        "diffusion": train_denoiser,
        "decoder": train_decoder,
    }


def _last_state(run: RunDirectory, stage: str) -> TrainingState | None:
    return CheckpointStore(run.checkpoints(stage), has_ema=stage == "diffusion").read_state()


def _stages(options: TrainOptions) -> tuple[str, ...]:
    return ("autoencoder", "diffusion") if options.stage == "all" else (options.stage,)


def _stage_clock(
    stage: str, options: TrainOptions, state: TrainingState | None, clock: RunClock
) -> StageClock:
    """The time limit of a stage; its start is set when its steps begin."""
    first_of_two = options.stage == "all" and stage == "autoencoder"
    end = clock.end_of(options.autoencoder_share if first_of_two else 1.0)
    return StageClock(clock, state.stage_start if state else clock.seconds(), end)


def _is_finished(
    run: RunDirectory, options: TrainOptions, stage: str, state: TrainingState | None, clock: StageClock
) -> bool:
    """Whether a stage is complete; a higher limit of steps or minutes makes it incomplete again.

    The first stage stays complete once the second one has started on its latents.
    """
    if stage == "autoencoder":
        saved, steps, settled = run.has_autoencoder, options.autoencoder.steps, run.has_diffusion_stage
    elif stage == "decoder":
        saved, steps, settled = run.has_autoencoder, options.decoder.steps, False
    else:
        saved, steps, settled = run.has_denoiser, options.diffusion.steps, False
    if not saved:
        return False
    return settled or state is None or state.step >= steps or clock.progress_at(state.run_seconds) >= 1


def _print_summary(session: Session) -> None:
    run, warnings = session.run, session.metrics_log.warnings()
    but = ", but not every stage made enough steps: see the last lines" if warnings else ""
    lines = [f"Finished in {duration(session.clock.seconds())}{but}. In {run.path}:"]
    parts = (
        ("autoencoder/", "the language autoencoder", run.has_autoencoder),
        ("reconstruction.json", "how well it gives texts back", run.reconstruction.exists()),
        ("denoiser/", "the denoiser of its latents (averaged weights)", run.has_denoiser),
        ("decoder_tolerance.json", "how its decoder takes sampled latents", run.decoder_tolerance.exists()),
        ("samples/", "texts sampled while training", run.samples.exists()),
        ("logs/train.jsonl", "losses", run.log.exists()),
    )
    lines += [f"  {name:<22} {what}" for name, what, exists in parts if exists]
    lines.append("Sample texts with:" if run.has_denoiser else "Train the denoiser with:")
    lines.append(f"  {next_command(run)}")
    lines += [f"Warning: {warning}" for warning in warnings]
    console.print(*lines, sep="\n")
