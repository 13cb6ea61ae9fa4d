"""MAUVE (Pillutla et al. 2021) of two sets of feature vectors, through `mauve-text`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from ld4lg_fast.evaluation.unavailable import Unavailable, require

# Two clusters of ten texts: below that MAUVE's histograms are meaningless.
FEWEST_TEXTS = 20


def check_mauve(num_texts: int) -> ModuleType:
    """Imports the package; called before features are computed.

    Raises:
        Unavailable: the package is missing, or there are too few texts.
    """
    if num_texts < FEWEST_TEXTS:
        raise Unavailable(f"MAUVE of {num_texts} texts says nothing: sample at least {FEWEST_TEXTS}")
    return require("mauve", "mauve-text")


def mauve_score(samples: np.ndarray, references: np.ndarray, scaling_factor: float = 5.0) -> float:
    """MAUVE of features (B, W), from 0 to 1, higher is closer; other settings are `mauve-text`'s defaults.

    Raises:
        Unavailable: as `check_mauve`, or all features are equal.
    """
    package = check_mauve(min(len(samples), len(references)))
    if not np.ptp(np.vstack([samples, references]), axis=0).any():
        raise Unavailable("all texts have the same features")
    with _quiet_libraries():
        result = package.compute_mauve(
            p_features=samples, q_features=references, mauve_scaling_factor=scaling_factor, verbose=False
        )
    return float(result.mauve)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Discards what compiled libraries print: faiss warns of few texts per cluster; `cautions` says it in words."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
