"""The arguments of the operator in the order of its schema."""

from typing import NamedTuple

from torch import Tensor


class Inputs(NamedTuple):
    """Arguments of ``ld4lg::logits_process``, described in `ops.logits_process`."""

    logits: Tensor
    ids: Tensor
    length: Tensor
    eos: Tensor
    forced: Tensor
    min_length: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    normalize: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
