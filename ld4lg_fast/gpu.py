"""What our loops set on a GPU while they run."""

from contextlib import AbstractContextManager, ExitStack, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Without cuDNN's, which torch would prefer on Hopper: it plans for about half a second whenever it meets a new shape,
# and texts, and what is left of a batch, have many; nor may it plan while a graph is captured.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def gpu_settings(device: torch.device) -> AbstractContextManager:
    """Makes ``device`` the current one, where graphs are captured, and chooses among attention kernels.

    On another device than a GPU it does nothing.
    """
    if device.type != "cuda":
        return nullcontext()
    with ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(sdpa_kernel(ATTENTION))
        return stack.pop_all()
