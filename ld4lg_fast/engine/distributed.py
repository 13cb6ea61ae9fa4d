"""Samples shared out over the processes of ``accelerate launch``; with one process they are all its own."""

from collections.abc import Sequence

from accelerate import PartialState
from accelerate.utils import gather_object


def share(num_samples: int, processes: PartialState) -> list[int]:
    """The numbers of this process's samples, every num_processes-th one."""
    return list(range(processes.process_index, num_samples, processes.num_processes))


def gathered(ids: Sequence[int], rows: Sequence, processes: PartialState) -> list | None:
    """All processes' rows in the order of their samples' numbers ``ids``; None but in the main process."""
    pairs = list(zip(ids, rows, strict=True))
    if processes.num_processes > 1:
        pairs = gather_object(pairs)
    if not processes.is_main_process:
        return None
    return [row for _, row in sorted(pairs, key=lambda pair: pair[0])]
