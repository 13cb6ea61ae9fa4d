"""The test command: samples from a run and measures the texts."""

from pathlib import Path

from omegaconf import DictConfig

from ld4lg_fast.terminal.console import console
from ld4lg_fast.terminal.hydra_entry import hydra_entry
from ld4lg_fast.training.session import on_main, start_processes


def main() -> Path | None:
    """Entry point of ``scripts/test.py``; returns the result of `test`."""
    return hydra_entry(test, "test")


def test(config: DictConfig) -> Path:
    """Samples, measures, prints a table and writes a JSON file to the run directory; returns its path.

    Raises:
        LD4LGError: an error that the user can correct.
    """
    # Imported here, as transformers takes seconds: mistakes on the command line are reported before.
    from ld4lg_fast.evaluation.options import GROUPS
    from ld4lg_fast.options.groups import checked_groups

    settings = checked_groups(config, GROUPS)
    processes = start_processes()
    console.quiet = console.quiet or not processes.is_main_process
    import transformers

    from ld4lg_fast.evaluation.run import Evaluation

    transformers.utils.logging.disable_progress_bar()
    try:
        evaluation = Evaluation(settings, processes)
        samples, frontier, guided = evaluation.samples(), evaluation.frontier(), evaluation.guided()
        path = on_main(processes, lambda: evaluation.measure(samples, frontier, guided))
        console.print(f"Written to {path}.")
        return path
    finally:
        processes.destroy_process_group()
