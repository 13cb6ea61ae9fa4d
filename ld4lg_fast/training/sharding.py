"""FSDP2 (Zhao et al. 2023): parameters, gradients, EMA and optimizer moments sharded over the processes.

Only a copy of the stage's module is sharded. The module itself stays unsharded, so that validation, checkpoints and the
saved model do not depend on the number of processes.
"""

import copy
import warnings

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ld4lg_fast.engine.regional_compile import regions


def sharded_twin(module: nn.Module, device: torch.device, world_size: int) -> nn.Module:
    """A copy of ``module``, sharded region by region over all processes."""
    # FSDP2 warns that outputs are views, which matters only for in-place changes.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module", category=UserWarning)
    mesh = init_device_mesh(device.type, (world_size,))
    twin = copy.deepcopy(module)
    for region in list(regions(twin)):
        fully_shard(region, mesh=mesh)
    fully_shard(twin, mesh=mesh)  # in place
    return twin


def whole(tensor: Tensor) -> Tensor:
    """The full tensor; for a sharded one, call in all processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, sharing its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A full tensor sharded as ``like`` is, or unchanged if ``like`` is not sharded."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def gather(twin: nn.Module, module: nn.Module) -> None:
    """Copies the sharded copy's parameters into its original; call in all processes."""
    for target, source in zip(module.parameters(), twin.parameters(), strict=True):
        target.copy_(whole(source))
