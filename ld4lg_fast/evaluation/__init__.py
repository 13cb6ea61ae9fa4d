"""Evaluation of sampled texts: similarity to real texts, diversity, memorization; and of sequence-to-sequence outputs.

`evaluate_texts` and `evaluate_pairs` score any texts; `main` is the command that samples from a run and scores. All are
loaded on first use.

Imports training (for run checkpoints), pipeline and the rooms below it.
"""

from importlib import import_module
from typing import Any

_LAZY = {
    "EvaluationSettings": "options",
    "evaluate_pairs": "metrics",
    "evaluate_texts": "metrics",
    "main": "command",
}

__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"ld4lg_fast.evaluation.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'ld4lg_fast.evaluation' has no attribute {name!r}")
