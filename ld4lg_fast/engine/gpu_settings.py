"""What our loops set on a GPU while they run."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Without cuDNN's, which torch would prefer on Hopper: it plans for about half a second whenever it meets a new shape,
# and texts, and what is left of a batch, have many; nor may it plan while a graph is captured.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


_lock = threading.Lock()
_inside = 0
_attention = ExitStack()


@contextmanager
def _chosen_attention() -> Iterator[None]:
    """`ATTENTION` from the first thread that enters until the last one has left: the choice is the whole process's."""
    global _inside
    with _lock:
        if not _inside:
            _attention.enter_context(sdpa_kernel(ATTENTION))
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _attention.close()


def gpu_settings(device: torch.device) -> AbstractContextManager:
    """Makes ``device`` the current one, where graphs are captured, and chooses among attention kernels.

    On another device than a GPU it does nothing.
    """
    if device.type != "cuda":
        return nullcontext()
    with ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(_chosen_attention())
        return stack.pop_all()
