"""Names of precisions: fp32, bf16, fp16, int8, tf32, fp8. PyTorch's own names of the first three are accepted too."""

from typing import Any

import torch

from ld4lg_fast.export.runtime.option_checks import Choice

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_OURS = {theirs: ours for ours, theirs in TORCH_NAMES.items()}


def precision_name(name: Any) -> Any:
    """``fp32`` for ``float32`` and so on; anything else as it is."""
    return _OURS.get(name, name) if isinstance(name, str) else name


def torch_dtype(name: str) -> torch.dtype:
    """PyTorch's dtype of fp32, bf16 or fp16, by either name."""
    return getattr(torch, TORCH_NAMES[precision_name(name)])


class PrecisionChoice(Choice):
    """One of several precisions, by either name."""

    def allows(self, value: Any) -> bool:
        return super().allows(precision_name(value))
