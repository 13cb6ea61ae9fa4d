"""Samples distributed over the processes of ``accelerate launch``."""

from collections.abc import Sequence

from accelerate import PartialState
from accelerate.utils import gather_object


def share(num_samples: int, processes: PartialState) -> list[int]:
    """Ids of this process's samples: every num_processes-th one."""
    return list(range(processes.process_index, num_samples, processes.num_processes))


def gathered(ids: Sequence[int], rows: Sequence, processes: PartialState) -> list | None:
    """Rows of all processes, ordered by sample id, in the main process; None in the others."""
    pairs = list(zip(ids, rows, strict=True))
    if processes.num_processes > 1:
        pairs = gather_object(pairs)
    if not processes.is_main_process:
        return None
    return [row for _, row in sorted(pairs, key=lambda pair: pair[0])]
