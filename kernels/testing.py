"""Cases of operations, shared by tests and benchmarks, and the accuracy rule for kernels.

A case makes the arguments of `ops.<op>`. Its tensors are made in float64 and cast, so that every backend and the
float64 oracle get the same rounded values.

Letters: B batch, N latent positions, D model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.kernels import ops, reference
from ld4lg_fast.kernels.backend import use_backend

Value = Tensor | float | tuple | None
Arguments = dict[str, Value]

# The small floor of the two-times rule, relative to the largest wanted value.
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-4}


@dataclass(frozen=True)
class OpCase:
    """Arguments of one call of an operation.

    Attributes:
        op: the name in `ops` and `reference`.
        name: short description of the case.
        make: (generator) -> arguments, floating-point tensors in float64.
        dtypes: the floating-point dtypes the case is run in.
        keep: arguments that stay float32 when the case runs in a smaller dtype, as under autocast.
        differentiable: whether the gradients of the floating-point arguments are compared.
        capability: the least GPU capability of its Triton kernel, 80 for 8.0 (Ampere).
    """

    op: str
    name: str
    make: Callable[[torch.Generator], Arguments]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    keep: frozenset[str] = field(default_factory=frozenset)
    differentiable: bool = True
    capability: int = 80

    def runs_on(self, device: str) -> bool:
        """Whether the case's kernel runs on the device."""
        if device == "cpu":
            return True
        major, minor = torch.cuda.get_device_capability()
        return 10 * major + minor >= self.capability

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}"

    def arguments(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Arguments:
        """Fresh arguments in ``dtype`` on ``device``; they require gradients if these are compared."""
        made = self.make(torch.Generator().manual_seed(seed))
        return {name: self._cast(name, value, dtype, device) for name, value in made.items()}

    def _cast(self, name: str, value: Value, dtype: torch.dtype, device: str) -> Value:
        if not isinstance(value, Tensor):
            return value
        if not value.is_floating_point():
            return value.to(device)
        target = torch.float32 if name in self.keep else dtype
        cast = torch.empty_strided(value.size(), value.stride(), dtype=target, device=device).copy_(value)
        return cast.requires_grad_(self.differentiable)


@dataclass
class Result:
    """Outputs of a call, and gradients of its floating-point arguments under given upstream gradients."""

    outputs: list[Tensor]
    gradients: dict[str, Tensor]

    def named(self) -> dict[str, Tensor]:
        return {f"output {i}": out for i, out in enumerate(self.outputs)} | {
            f"gradient of {name}": grad for name, grad in self.gradients.items()
        }


def run(function: Callable, arguments: Arguments, seed: int = 1) -> Result:
    """Calls ``function`` and, if arguments require it, differentiates with random upstream gradients."""
    outputs = function(**arguments)
    outputs = [out for out in (outputs if isinstance(outputs, tuple) else (outputs,)) if out is not None]
    wanted = {n: a for n, a in arguments.items() if isinstance(a, Tensor) and a.requires_grad}
    if not wanted:
        return Result([out.detach() for out in outputs], {})
    generator = torch.Generator().manual_seed(seed)
    upstream = [torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in outputs]
    upstream = [grad.bfloat16().to(out) for grad, out in zip(upstream, outputs, strict=True)]
    gradients = torch.autograd.grad(outputs, list(wanted.values()), upstream)
    return Result([out.detach() for out in outputs], dict(zip(wanted, gradients, strict=True)))


def in_float64(arguments: Arguments) -> Arguments:
    """The same rounded values in float64 on the CPU, for the oracle."""
    return {
        name: value.detach().cpu().double().requires_grad_(value.requires_grad)
        if isinstance(value, Tensor) and value.is_floating_point()
        else value.cpu()
        if isinstance(value, Tensor)
        else value
        for name, value in arguments.items()
    }


def check(case: OpCase, backend: str, dtype: torch.dtype, device: str = "cpu", times: float = 2) -> None:
    """Raises AssertionError unless ``backend`` is about as accurate as the plain reference.

    The rule: for every output and gradient, the largest error is at most twice (or ``times``) that of the plain
    reference in the same dtype, plus a small floor (flash-attention's rule); dtypes and shapes are the reference's.
    Memory that the kernel does not write holds NaN.
    """
    arguments = case.arguments(dtype, device)
    plain_function, kernel = getattr(reference, case.op), getattr(ops, case.op)
    exact = run(plain_function, in_float64(arguments)).named()
    plain = run(plain_function, arguments).named()
    with use_backend(backend), poisoned_memory():
        got = run(kernel, arguments).named()
    assert got.keys() == plain.keys()
    for name, value in got.items():
        want = exact[name].double()
        assert (value.dtype, value.shape) == (plain[name].dtype, plain[name].shape), f"{case.id}: {name}"
        if not want.numel():
            continue
        infinite = want.isinf()
        assert torch.equal(value.cpu().double()[infinite], want[infinite]), f"{case.id}: {name} is finite"
        want = want.masked_fill(infinite, 0.0)
        error = (value.cpu().double().masked_fill(infinite, 0.0) - want).abs().max().item()
        allowed = times * (plain[name].cpu().double().masked_fill(infinite, 0.0) - want).abs().max().item()
        allowed += FLOOR[dtype] * max(1.0, want.abs().max().item())
        assert error <= allowed, f"{case.id}: {name} is off by {error:.3g}, allowed {allowed:.3g}"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fills uninitialized tensors with NaN, so that elements that a kernel does not write are found."""
    settings: Any = torch.utils.deterministic  # its attribute is a property of the module's class
    before = torch.are_deterministic_algorithms_enabled(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        settings.fill_uninitialized_memory = before[1]
