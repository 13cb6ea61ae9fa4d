"""The training command: config and run directory, then the stages, then what to type next."""

import sys
from collections.abc import Callable, Sequence

from accelerate import Accelerator
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from ld4lg_fast.checkpoints import fingerprint
from ld4lg_fast.console import console
from ld4lg_fast.entry import hydra_entry
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.gpu import gpu_settings
from ld4lg_fast.training.checkpoint import CheckpointStore, TrainingState
from ld4lg_fast.training.clock import RunClock, StageClock
from ld4lg_fast.training.interrupts import Interrupted, Interrupts
from ld4lg_fast.training.journal import Journal
from ld4lg_fast.training.memory import keep_freed_memory
from ld4lg_fast.training.opening import Plan, carry_out, plan, resume_command
from ld4lg_fast.training.options import TrainOptions, read_options
from ld4lg_fast.training.progress import duration
from ld4lg_fast.training.run_directory import RunDirectory
from ld4lg_fast.training.session import Session, on_cpu, on_main, start_processes
from ld4lg_fast.training.stored_config import GROUPS, on_stored_groups


def main(overrides: Sequence[str] | None = None) -> None:
    """The command of ``scripts/train.py``; ``overrides`` stand for the command line's arguments."""
    sys.argv[1:] = on_stored_groups(sys.argv[1:] if overrides is None else overrides)
    hydra_entry(train, "train")


def train(config: DictConfig) -> int | None:
    """Trains as a composed config and its command line say; returns an exit code where it was interrupted.

    Raises:
        LD4LGError: anything that the user can mend.
    """
    processes = start_processes()
    console.quiet = not processes.is_main_process
    command = HydraConfig.get()
    run = RunDirectory(command.run.dir)
    groups = {name: command.runtime.choices.get(name) for name in GROUPS}
    for name, choice in groups.items():
        if not isinstance(choice, str):
            raise ConfigError(f"{name} takes exactly one name, as in {name}=...; several cannot be combined.")
    overrides = list(command.overrides.task)
    planned = on_main(processes, lambda: plan(run, config, groups, overrides))
    with Interrupts() as interrupts:
        try:
            _train(planned, interrupts)
        except Interrupted as stopped:
            console.print(f"Go on with:\n  {resume_command(run)}", markup=False, highlight=False)
            return stopped.exit_code
        finally:
            processes.destroy_process_group()
    return None


def _train(planned: Plan, interrupts: Interrupts) -> None:
    run, resume = planned.run, planned.config.resume
    config = OmegaConf.to_container(planned.config, resolve=True)
    options = read_options(config["train"])
    states = {
        stage: _last_state(run, stage) if resume else None
        for stage in ("autoencoder", "diffusion", "decoder")
    }
    earlier = max((state.run_seconds for state in states.values() if state), default=0.0)
    clock = RunClock(options.max_minutes and 60 * options.max_minutes, earlier)

    # Imported late: transformers takes seconds, and a mistake on the command line should show at once.
    import transformers

    from ld4lg_fast.data import load_from_config
    from ld4lg_fast.training.autoencoder_stage import train_autoencoder
    from ld4lg_fast.training.captured_step import check_capture
    from ld4lg_fast.training.conditions import chosen_decoding, number_of_classes, source_limit
    from ld4lg_fast.training.decoder_stage import train_decoder
    from ld4lg_fast.training.diffusion_stage import train_denoiser

    transformers.utils.logging.disable_progress_bar()
    if on_cpu():
        keep_freed_memory()
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=options.precision,
        log_with=options.trackers or None,
        project_dir=run.path / "logs" if options.trackers else None,
    )
    dataset = load_from_config(config["dataset"])
    number_of_classes(config, dataset)
    decoding = chosen_decoding(config, from_sources=source_limit(config, dataset) is not None)
    if options.cuda_graph:
        check_capture(accelerator, options, config["recipe"].get("adaptive_schedule", False))
    on_main(accelerator, lambda: carry_out(planned))

    def save_decoding() -> None:
        with fingerprint.renewed(run.path):
            decoding.save(run.path)

    on_main(accelerator, save_decoding)
    journal = Journal(run.log, accelerator, options.autoencoder.steps)
    session = Session(accelerator, run, options, config["seed"], clock, interrupts, journal)
    session.journal.start_trackers("ld4lg-fast", config)
    console.print(
        f"dataset={dataset.name}: {len(dataset.train)} training and {len(dataset.validation)} validation texts from "
        f"{dataset.origin}; run directory {run.path}",
        markup=False,
        highlight=False,
    )
    for stage, work in _stages(options, train_autoencoder, train_denoiser, train_decoder):
        whole = options.stage != "all" or stage == "diffusion"
        state = states[stage]
        start = state.stage_start if state else clock.seconds()
        end = clock.end_of(1.0 if whole else options.autoencoder_share)
        stage_clock = StageClock(clock, start, end)
        if resume and _is_finished(run, options, stage, state, stage_clock):
            console.print(f"The {stage} stage of {run.path} is finished.", markup=False, highlight=False)
            continue
        with gpu_settings(accelerator.device):
            work(config, dataset, session, stage_clock)
        interrupts.check()
    accelerator.end_training()
    _say_what_next(session)


def _last_state(run: RunDirectory, stage: str) -> TrainingState | None:
    return CheckpointStore(run.checkpoints(stage)).read_state()


def _stages(
    options: TrainOptions, first: Callable, second: Callable, third: Callable
) -> list[tuple[str, Callable]]:
    if options.stage == "decoder":
        return [("decoder", third)]
    stages = [("autoencoder", first), ("diffusion", second)]
    return [stage for stage in stages if options.stage in ("all", stage[0])]


def _is_finished(
    run: RunDirectory, options: TrainOptions, stage: str, state: TrainingState | None, clock: StageClock
) -> bool:
    """Whether a stage needs nothing more; a higher limit of steps or minutes re-opens it.

    The first stage is never re-opened once the second one has begun on its latents.
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


def _say_what_next(session: Session) -> None:
    run = session.run
    lines = [f"Finished in {duration(session.clock.seconds())}. In {run.path}:"]
    parts = (
        ("autoencoder/", "the language autoencoder", run.has_autoencoder),
        ("reconstruction.json", "how well it gives texts back", run.reconstruction.exists()),
        ("denoiser/", "the denoiser of its latents (averaged weights)", run.has_denoiser),
        ("samples/", "texts sampled while training", run.samples.exists()),
        ("logs/train.jsonl", "losses", run.log.exists()),
    )
    lines += [f"  {name:<20} {what}" for name, what, exists in parts if exists]
    checkout = sys.argv[0].endswith("train.py")  # without one there are no scripts
    if run.has_denoiser:
        sample = "python scripts/infer.py infer.output_dir=" if checkout else "ld4lg sample "
        lines += ["Sample texts with:", f"  {sample}{run.path}"]
    else:
        lines += ["Train the denoiser with:"]
        train = "python scripts/train.py" if checkout else "ld4lg train"
        lines += [f"  {train} train.stage=diffusion hydra.run.dir={run.path}"]
    console.print("\n".join(lines), markup=False, highlight=False)
