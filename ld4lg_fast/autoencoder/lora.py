"""LoRA (Hu et al. 2022) of a frozen language model by the package ``peft``: added for training, then merged."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ld4lg_fast.errors import ConfigError


@dataclass(frozen=True)
class Lora:
    """Low-rank updates of all linear layers but the head.

    Args:
        rank: of each update. alpha: updates are scaled by alpha / rank.

    Raises:
        ConfigError: the package peft is missing.
    """

    rank: int
    alpha: float

    def __post_init__(self) -> None:
        if find_spec("peft") is None:
            raise ConfigError(
                f"autoencoder.lora.rank={self.rank} needs the package peft: pip install ld4lg-fast[lora]."
            )

    def add_to(self, lm: PreTrainedModel) -> None:
        """Puts trainable updates, which begin at zero, into a frozen model in place."""
        from peft import LoraConfig, inject_adapter_in_model

        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=_linears(lm))  # type: ignore[arg-type]
        inject_adapter_in_model(config, lm)


def merge(lm: PreTrainedModel) -> None:
    """Adds the updates to the weights, which stand under their own names again; nothing changes without updates."""
    if find_spec("peft") is None:
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[tuple[str, Any]] = [
        (name, module) for name, module in lm.named_modules() if isinstance(module, BaseTunerLayer)
    ]
    for name, layer in layers:
        layer.merge()
        lm.set_submodule(name, layer.get_base_layer())


def _linears(lm: PreTrainedModel) -> list[str]:
    """The names of all linear layers but the head."""
    head = lm.get_output_embeddings()
    return [
        name for name, module in lm.named_modules() if isinstance(module, nn.Linear) and module is not head
    ]
