"""SDPA backends and current device used inside the sampling and decoding loops on a GPU."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# Without cuDNN, which torch prefers on Hopper: it plans for about half a second for every new shape, of which decoding
# has many, and cannot plan while a graph is captured.
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]

_lock = threading.Lock()
_inside = 0
_attention = ExitStack()


@contextmanager
def _chosen_attention() -> Iterator[None]:
    """Selects `ATTENTION` from the first thread that enters until the last leaves, as the setting is process-wide."""
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
    """Makes a GPU the current device, which graph capture needs, and selects `ATTENTION`; elsewhere does nothing."""
    if device.type != "cuda":
        return nullcontext()
    with ExitStack() as stack:
        stack.enter_context(torch.cuda.device(device))
        stack.enter_context(_chosen_attention())
        return stack.pop_all()
