"""AdamW, its state by parameter names, and the learning-rate schedule."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.training.sharding import sharded_like, whole
from ld4lg_fast.training.train_section import StageOptions

WARMUP_SHARE = 0.1


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def make_optimizer(model: nn.Module, options: StageOptions, captured: bool = False) -> torch.optim.AdamW:
    """Fused AdamW over the trainable parameters; no weight decay for parameters of fewer than two dimensions.

    Args:
        captured: for steps in a CUDA graph; learning rates are then tensors.
    """
    parameters = trainable(model).values()
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, fused=fused, capturable=captured)
    if captured:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(options.learning_rate, device=group["params"][0].device)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Sets the learning rate of the next step, in place for CUDA graphs."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state, unsharded and on the CPU, as ``<parameter>/<kind>``; call in all processes."""
    return {
        f"{name}/{kind}": whole(tensor).detach().cpu()
        for name, parameter in trainable(model).items()
        for kind, tensor in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Loads the result of `optimizer_tensors`, which may come from another number of processes.

    Raises:
        CheckpointError: the tensors belong to another model.
    """
    names = {id(parameter): name for name, parameter in trainable(model).items()}
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("/")
        found.setdefault(name, {})[kind] = tensor
    state = {}
    for index, parameter in enumerate(ordered):
        name = names[id(parameter)]
        # A parameter that never had a gradient has no state.
        moments = found.pop(name, {})
        if any(tensor.shape not in ((), parameter.shape) for tensor in moments.values()):
            raise CheckpointError(f"The optimiser's state of {name} is that of another shape.")
        if moments:
            state[index] = {
                kind: sharded_like(tensor, parameter) if tensor.dim() else tensor
                for kind, tensor in moments.items()
            }
    if found:
        raise CheckpointError(f"The optimiser's state of {min(found)} has no place in this model.")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def learning_rate(options: StageOptions, step: int, progress: float, time_progress: float = 0.0) -> float:
    """Linear warm-up times cosine decay to zero at ``progress`` 1.

    The warm-up is counted in steps, and ends at the latest after a tenth of the stage's time limit.
    """
    warmup = min(1.0, max((step + 1) / max(1, options.warmup_steps), time_progress / WARMUP_SHARE))
    return options.learning_rate * warmup * (1 + math.cos(math.pi * min(1.0, progress))) / 2
