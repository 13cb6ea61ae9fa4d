"""The Brownian path from which stochastic samplers draw their noise, as sums of random streams.

The noise of a sampler's step is the increment of one path over the step's interval, divided by its standard deviation.
A sample's path depends on its seed and its id alone, so runs with 25 and with 50 steps follow the same path, and the
steps of one run are independent, as their intervals are disjoint.

The path's clock is the share of the steps that are done. It is cut into cells of 1/64; a cell's increment is a random
stream, and Haar wavelets divide it into halves, quarters … (Lévy's construction, as in the virtual Brownian tree of Li
et al. 2020, section 4). The ends of steps are rounded to the coarsest cells that keep them apart, so that a step is a
sum of few streams. Shared by the package (PyTorch) and the exported runtime (NumPy). Letters: S sampling steps.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

PATH_STREAM = 1  # the first stream of the path; those of wavelets follow the cells'
CELL_BITS = 6  # 64 cells in a unit of the clock
MOST_STREAMS = 64  # of a step

Weighted = list[tuple[int, float]]
"""Random streams and their weights, whose squares sum to 1."""


def step_noise(num_steps: int, spacing: str) -> list[Weighted]:
    """Streams and weights of each of the S steps.

    Equal steps of log-SNR lead to the last step, which is another one; those of other spacings lead to the data.
    """
    parts = max(1, num_steps - (spacing == "log_snr"))
    bits = max(CELL_BITS, (parts - 1).bit_length())
    ends = [((2 * step << bits) + parts) // (2 * parts) for step in range(num_steps + 1)]
    return [list(_increment(begin, end, bits)) for begin, end in zip(ends[:-1], ends[1:], strict=True)]


def path_noise(steps: Sequence[Weighted], fresh: Callable[[int], Any]) -> Callable[[int], Any]:
    """``noise(step)`` of `step_noise`, called in the order of the steps; ``fresh(stream)`` is an array of a stream's
    noise, which is kept as long as the next step needs it."""
    kept: dict[int, Any] = {}

    def noise(step: int) -> Any:
        nonlocal kept
        kept = {stream: kept[stream] if stream in kept else fresh(stream) for stream, _ in steps[step]}
        first, *others = (weight * kept[stream] for stream, weight in steps[step])
        return sum(others, start=first)

    return noise


def _increment(begin: int, end: int, bits: int) -> Iterator[tuple[int, float]]:
    """The interval [begin, end) in units of 2^-bits, normalised, in the basis of cells and wavelets."""
    size = 1 << bits - CELL_BITS
    for cell in range(begin // size, (end - 1) // size + 1):
        first = cell * size
        covered = _overlap(begin, end, first, first + size)
        yield PATH_STREAM + cell, covered / (size * (end - begin)) ** 0.5
        yield from _wavelets(begin, end, first, size, bits)


def _wavelets(begin: int, end: int, first: int, size: int, bits: int) -> Iterator[tuple[int, float]]:
    """Those below the cell [first, first + size) that the interval meets and does not contain."""
    covered = _overlap(begin, end, first, first + size)
    if covered in (0, size):
        return
    middle = first + size // 2
    left = _overlap(begin, end, first, middle)
    if weight := 2 * left - covered:
        # The clock has two units, and so 2^(level + 1) cells at a level, numbered after all coarser ones.
        level_begin = 2 << bits - size.bit_length() + 1
        yield PATH_STREAM + level_begin + first // size, weight / (size * (end - begin)) ** 0.5
    for half in (first, middle):
        yield from _wavelets(begin, end, half, size // 2, bits)


def _overlap(begin: int, end: int, first: int, last: int) -> int:
    return max(0, min(end, last) - max(begin, first))
