"""GPU settings of the sampling loops and kernels, checked without a GPU."""

from contextlib import contextmanager

import torch
from torch._subclasses import FakeTensorMode
from torch.backends.cuda import cudnn_sdp_enabled, flash_sdp_enabled

from ld4lg_fast.engine.gpu_settings import gpu_settings
from ld4lg_fast.kernels import library


def record_devices(monkeypatch):
    """The devices that are made current, in order."""
    entered = []

    @contextmanager
    def made_current(device):
        entered.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", made_current)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return entered


def test_loops_leave_out_the_attention_that_plans_for_every_shape(monkeypatch):
    entered, before = record_devices(monkeypatch), (cudnn_sdp_enabled(), flash_sdp_enabled())
    second = torch.device("cuda", 1)
    with gpu_settings(second):
        assert (cudnn_sdp_enabled(), flash_sdp_enabled()) == (False, True) and entered == [second]
    assert (cudnn_sdp_enabled(), flash_sdp_enabled()) == before
    with gpu_settings(torch.device("cpu")):
        assert (cudnn_sdp_enabled(), flash_sdp_enabled()) == before


def test_kernels_are_launched_where_their_tensors_are(monkeypatch):
    entered = record_devices(monkeypatch)
    call = library._on_its_gpu(lambda scale, x: (scale, x.device))
    with FakeTensorMode():
        tensors = [torch.empty(2, device=torch.device("cuda", index)) for index in (0, 1)]
    assert [call(2.0, x) for x in tensors] == [(2.0, x.device) for x in tensors]
    assert entered == [torch.device("cuda", 1)]
