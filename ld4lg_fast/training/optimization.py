"""AdamW as published, and the learning rate."""

import math

import torch
from torch import nn

from ld4lg_fast.training.options import StageOptions


def make_optimizer(model: nn.Module, options: StageOptions) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, without weight decay on those of fewer than two axes."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trainable)
    return torch.optim.AdamW(groups, lr=options.learning_rate, fused=fused)


def learning_rate(options: StageOptions, step: int, progress: float) -> float:
    """Linear warm-up in steps times a cosine that reaches zero when ``progress`` reaches 1."""
    warmup = min(1.0, (step + 1) / max(1, options.warmup_steps))
    return options.learning_rate * warmup * (1 + math.cos(math.pi * min(1.0, progress))) / 2
