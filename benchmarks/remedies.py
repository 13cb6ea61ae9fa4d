"""The cheap remedies that any user of the published code would try first, applied to it as it stands."""

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.reference.layers import Attention, merge_heads, split_heads


@dataclass(frozen=True)
class Remedies:
    """Which of them are taken: SDPA in the place of einsum attention, bf16 autocast, torch's dynamic int8
    quantisation of every Linear, plain ``torch.compile``."""

    sdpa: bool = False
    autocast: bool = False
    int8: bool = False
    compile: bool = False

    def apply(self, network: nn.Module, padded: bool) -> nn.Module:
        """A copy of the published network with the remedies; without padding its masks are left out of SDPA."""
        network = copy.deepcopy(network)
        for module in network.modules():
            if self.sdpa and isinstance(module, Attention):
                module.forward = _SdpaForward(module, padded)
        if self.int8:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated, but still what users find first
                network = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)
        return torch.compile(network) if self.compile else network

    def precision(self, device: str) -> AbstractContextManager:
        """The context to run in."""
        return torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext()


# By the precision that they compute in.
REMEDIES = {
    "fp32": {"SDPA": Remedies(sdpa=True), "SDPA + compile": Remedies(sdpa=True, compile=True)},
    "bf16": {
        "SDPA + bf16 autocast": Remedies(sdpa=True, autocast=True),
        "SDPA + bf16 autocast + compile": Remedies(sdpa=True, autocast=True, compile=True),
    },
    "int8": {"SDPA + dynamic int8": Remedies(sdpa=True, int8=True)},
}


class _SdpaForward:
    """`Attention.forward` on ``scaled_dot_product_attention``."""

    def __init__(self, module: Attention, padded: bool) -> None:
        self.module, self.padded = module, padded

    def __call__(
        self, x: Tensor, context: Tensor | None, allowed: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        module = self.module
        source = x if context is None else context
        parts = (module.to_q(x), module.to_k(source), module.to_v(source))
        q, k, v = (split_heads(part, module.heads) for part in parts)
        if self.padded and allowed is not None:
            base = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias.to(q.dtype)
            bias = base.masked_fill(~allowed, -torch.finfo(q.dtype).max)
        bias = None if bias is None else bias.to(q.dtype)
        dropout = module.dropout.p if module.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return module.to_out(merge_heads(out))


class Lent:
    """A context in which a network itself has the remedies, for training: its weights stay where they are."""

    def __init__(self, remedies: Remedies, network: nn.Module, padded: bool) -> None:
        self.network = network
        attentions = [m for m in network.modules() if remedies.sdpa and isinstance(m, Attention)]
        self.forwards = {module: _SdpaForward(module, padded) for module in attentions}
        self.compiled = None
        if remedies.compile:
            network.compile()
            self.compiled, network._compiled_call_impl = network._compiled_call_impl, None

    def __enter__(self) -> None:
        for module, forward in self.forwards.items():
            module.forward = forward
        self.network._compiled_call_impl = self.compiled

    def __exit__(self, *_: object) -> None:
        for module in self.forwards:
            del module.forward
        self.network._compiled_call_impl = None
