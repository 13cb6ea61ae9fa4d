"""What a launch depends on besides its arguments."""

import torch
from torch import Tensor


def generation(tensor: Tensor) -> int:
    """The GPU's major compute capability: 8 Ampere, 9 Hopper; 8 for what is interpreted on the CPU."""
    return torch.cuda.get_device_capability(tensor.device)[0] if tensor.is_cuda else 8
