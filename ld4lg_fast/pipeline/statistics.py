"""Statistics of a run's training texts: lengths and classes, from which those of samples are drawn.

Letters: B batch.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.schemas import StatisticsFile, read
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.conditions import check_classes
from ld4lg_fast.kernels import ops
from ld4lg_fast.options.checks import as_config_errors

LENGTH_STREAM = (1 << 30) + 1  # random streams of a sample's length and class, used for nothing else
CLASS_STREAM = (1 << 30) + 2

COUNTED = 2**20  # lengths that are counted at once, as NumPy counts a copy of them

FILE = "statistics.json"


@dataclass(frozen=True)
class RunStatistics:
    """Statistics of the training texts, stored as ``statistics.json``.

    Args:
        length_counts: number of texts by length in tokens, with special tokens (index = length); empty: unknown.
        class_names: None for texts without classes. class_counts: texts of each class; None: unknown.
        origin: where the texts came from, in words. num_truncated: texts that were cut to the length limit.
    """

    length_counts: tuple[int, ...] = ()
    class_names: tuple[str, ...] | None = None
    class_counts: tuple[int, ...] | None = None
    origin: str | None = None
    num_truncated: int | None = None

    @classmethod
    def of_texts(
        cls,
        lengths: Sequence[int] | np.ndarray,
        labels: Sequence[int] | None,
        class_names: tuple[str, ...] | None,
        origin: str,
        num_truncated: int,
    ) -> "RunStatistics":
        """Counts the texts of each length and class."""
        by_class = Counter(labels or ())
        given = np.asarray(lengths)
        of_lengths = np.zeros(int(given.max()) + 1 if len(given) else 0, dtype=np.int64)
        for start in range(0, len(given), COUNTED):
            of_lengths += np.bincount(given[start : start + COUNTED], minlength=len(of_lengths))
        counts = None if class_names is None else tuple(by_class[index] for index in range(len(class_names)))
        return cls(tuple(of_lengths.tolist()), class_names, counts, origin, num_truncated)

    def draw_lengths(self, seed: int, sample_ids: Tensor) -> Tensor:
        """A length (B,) long for each sample, from the training texts' distribution.

        Raises:
            CheckpointError: the distribution is unknown.
        """
        if not sum(self.length_counts[1:]):
            raise CheckpointError(
                "The lengths of this model's training texts, from which those of its samples are drawn, are "
                f"unknown; its run directory needs a {FILE} with token_lengths."
            )
        return _draw((0, *self.length_counts[1:]), seed, sample_ids, LENGTH_STREAM)

    def draw_classes(self, seed: int, sample_ids: Tensor) -> Tensor:
        """A class (B,) long for each sample, with the frequencies of the training texts (uniform if unknown)."""
        counts = self.class_counts or (1,) * len(self.class_names or ())
        return _draw(counts, seed, sample_ids, CLASS_STREAM)

    def class_index(self, name: str) -> int:
        """The id of a class by its name, ignoring case.

        Raises:
            ConfigError: there is no such class.
        """
        with as_config_errors():
            index = check_classes(self.class_names or (), None, name, num_samples=1)
        assert isinstance(index, int)  # as a name was given
        return index

    def of_classes(self, num_classes: int) -> "RunStatistics":
        """These statistics with a name for each of ``num_classes`` classes (``class 0`` … where none are stored).

        Raises:
            CheckpointError: they have another number of classes.
        """
        if not num_classes:
            return replace(self, class_names=None, class_counts=None)
        if self.class_names is None:
            return replace(self, class_names=tuple(f"class {index}" for index in range(num_classes)))
        if len(self.class_names) != num_classes:
            raise CheckpointError(
                f"The denoiser has {num_classes} classes but the statistics name {len(self.class_names)}; they "
                "belong to different runs."
            )
        return self

    def of_lengths(self, max_len: int) -> "RunStatistics":
        """These statistics, after a check that no text has more than ``max_len`` tokens.

        Raises:
            CheckpointError: one has.
        """
        if len(self.length_counts) > max_len + 1:
            raise CheckpointError(
                f"The statistics count texts of {len(self.length_counts) - 1} tokens but the autoencoder reads "
                f"{max_len}; they belong to different runs."
            )
        return self

    def save(self, directory: Path) -> None:
        """Writes ``statistics.json`` into a run directory."""
        classes = None
        if self.class_names is not None:
            counts = self.class_counts or (None,) * len(self.class_names)
            classes = dict(zip(self.class_names, counts, strict=True))
        lengths = {str(length): count for length, count in enumerate(self.length_counts) if count}
        write_json(
            directory / FILE,
            {
                "origin": self.origin,
                "num_train_texts": sum(self.length_counts) or None,
                "num_truncated": self.num_truncated,
                "token_lengths": lengths or None,
                "classes": classes,
            },
        )

    @classmethod
    def load(cls, directory: Path) -> "RunStatistics":
        """Reads what `save` wrote; without the file, everything is unknown.

        Raises:
            CheckpointError: the file is damaged.
        """
        path = directory / FILE
        if not os.path.lexists(path):
            return cls()
        file = read(StatisticsFile, path, "a run directory")
        lengths = {int(length): count for length, count in (file.token_lengths or {}).items()}
        classes = file.classes
        counts = [count for count in (classes or {}).values() if count is not None]
        return cls(
            length_counts=tuple(lengths.get(length, 0) for length in range(max(lengths, default=-1) + 1)),
            class_names=None if classes is None else tuple(classes),
            class_counts=None if classes is None or len(counts) < len(classes) else tuple(counts),
            origin=file.origin,
            num_truncated=file.num_truncated,
        )


def _draw(counts: Sequence[int], seed: int, sample_ids: Tensor, stream: int) -> Tensor:
    """Indices (B,) into ``counts``, sampled in proportion to them; a function of (seed, sample id) alone."""
    normal = ops.philox_normal(seed, sample_ids, stream, (1,))[:, 0]
    cumulative = torch.tensor(counts, dtype=torch.float64, device=sample_ids.device).cumsum(0)
    threshold = torch.special.ndtr(normal.double()) * cumulative[-1]
    # A uniform number of exactly 1 must not give an index beyond the last that occurs.
    last = int(torch.tensor(counts).nonzero().max())
    return torch.searchsorted(cumulative, threshold, right=True).clamp(max=last)
