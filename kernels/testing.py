"""One table of cases for every operation, shared by tests and benchmarks, and the rule that judges a kernel.

A case makes the arguments of `ops.<op>`; the tensors among them are made in float64 and cast, so that every
backend and the float64 oracle see the same rounded values.

Letters: B batch, N latent positions, D model width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ld4lg_fast.kernels import ops, reference
from ld4lg_fast.kernels.backend import use_backend

Arguments = dict[str, Tensor | int | tuple | None]

# The small floor of the two-times rule, relative to the largest wanted value.
FLOOR = {torch.float32: 1e-6, torch.bfloat16: 1e-3, torch.float16: 1e-4}


@dataclass(frozen=True)
class OpCase:
    """Arguments of one call of an operation.

    Attributes:
        op: the name in `ops` and `reference`.
        name: what is special about the case.
        make: (generator) -> arguments, floating-point tensors in float64.
        dtypes: the floating-point dtypes the case is run in.
        keep: arguments that stay float32 when the case runs in a smaller dtype, as under autocast.
        differentiable: whether the gradients of the floating-point arguments are compared.
    """

    op: str
    name: str
    make: Callable[[torch.Generator], Arguments]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    keep: frozenset[str] = field(default_factory=frozenset)
    differentiable: bool = True

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}"

    def arguments(self, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Arguments:
        """Fresh arguments in ``dtype`` on ``device``; they require gradients where these are compared."""
        made = self.make(torch.Generator().manual_seed(seed))
        return {name: self._cast(name, value, dtype, device) for name, value in made.items()}

    def _cast(self, name: str, value, dtype: torch.dtype, device: str):
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
    """Calls ``function`` and, where arguments require it, differentiates under random upstream gradients."""
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


def check(case: OpCase, backend: str, dtype: torch.dtype, device: str = "cpu") -> None:
    """Raises AssertionError unless ``backend`` is about as near to float64 as the plain reference is.

    The rule: for every output and gradient, the largest error is at most twice that of the plain reference in
    the same dtype, plus a small floor (flash-attention's rule); dtypes and shapes are the reference's. Memory
    that the kernel does not write is NaN.
    """
    arguments = case.arguments(dtype, device)
    plain_function, kernel = getattr(reference, case.op), getattr(ops, case.op)
    exact = run(plain_function, in_float64(arguments)).named()
    plain = run(plain_function, arguments).named()
    with use_backend(backend), poisoned_memory():
        got = run(kernel, arguments).named()
    assert got.keys() == plain.keys()
    for name, value in got.items():
        want = exact[name]
        assert (value.dtype, value.shape) == (plain[name].dtype, plain[name].shape), f"{case.id}: {name}"
        if not want.numel():
            continue
        error = (value.cpu().double() - want).abs().max().item()
        allowed = 2 * (plain[name].cpu().double() - want).abs().max().item()
        allowed += FLOOR[dtype] * max(1.0, want.abs().max().item())
        assert error <= allowed, f"{case.id}: {name} is off by {error:.3g}, allowed {allowed:.3g}"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """New uninitialised tensors are full of NaN, so that an element which a kernel leaves out shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def adaln_arguments(
    *lead: int,
    width: int,
    modulation: tuple[int, ...] | None = None,
    next_norm: bool = True,
    offset: float = 0.0,
    strided: bool = False,
) -> Callable[[torch.Generator], Arguments]:
    """Arguments of `ops.adaln_residual`: h is (*lead, width), scale and shift are (*modulation, width)."""

    def make(generator: torch.Generator) -> Arguments:
        def randn(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        def branch() -> Tensor:
            if not strided:
                return randn(*lead, width) + offset
            return (randn(*(size + 1 for size in lead), width + 3) + offset)[
                (*(slice(1, None) for _ in lead), slice(2, -1))
            ]

        groups = (lead[0], *(1 for _ in lead[1:])) if modulation is None else modulation
        scale, shift = randn(*groups, 2 * width).chunk(2, dim=-1)  # as the network's projection gives them
        norms = [1 + 0.2 * randn(width), 0.2 * randn(width)] * 2
        return {
            "h": branch(),
            "residual": branch(),
            "weight": norms[0],
            "bias": norms[1],
            "scale": scale,
            "shift": shift,
            "next_weight": norms[2] if next_norm else None,
            "next_bias": norms[3] if next_norm else None,
        }

    return make


def philox_arguments(ids: list[int], shape: tuple[int, ...], seed: int = 5, stream: int = 3):
    """Arguments of `ops.philox_normal`."""

    def make(generator: torch.Generator) -> Arguments:
        return {
            "seed": seed,
            "sample_ids": torch.tensor(ids, dtype=torch.int64),
            "stream": stream,
            "shape": shape,
        }

    return make


def _adaln(name: str, *lead: int, **options) -> OpCase:
    fields = {key: options.pop(key) for key in ("dtypes", "keep") if key in options}
    return OpCase("adaln_residual", name, adaln_arguments(*lead, **options), **fields)


def _philox(name: str, *args, **options) -> OpCase:
    make = philox_arguments(*args, **options)
    return OpCase("philox_normal", name, make, dtypes=(torch.float32,), differentiable=False)


AUTOCAST = frozenset({"residual", "weight", "bias", "next_weight", "next_bias"})

CASES = (
    _adaln("paper", 8, 32, width=768),
    _adaln("paper-no-next-norm", 8, 32, width=768, next_norm=False),
    _adaln("autocast", 4, 32, width=768, keep=AUTOCAST, dtypes=(torch.bfloat16,)),
    _adaln("per-position", 3, 5, width=96, modulation=(3, 5)),
    _adaln("one-for-all", 3, 5, width=96, modulation=()),
    _adaln("shared-by-batch", 3, 5, width=96, modulation=(1, 5)),
    _adaln("odd", 3, 7, width=65),
    _adaln("strided", 3, 5, width=67, strided=True),
    _adaln("rows-only", 11, width=40, modulation=(1,)),
    _adaln("three-leading-axes", 2, 3, 5, width=40, modulation=(2, 3, 1)),
    _adaln("single-row", 1, 1, width=48),
    _adaln("width-one", 2, 3, width=1),
    _adaln("width-three", 2, 3, width=3),
    _adaln("far-from-zero", 2, 9, width=256, offset=100.0, dtypes=(torch.float32,)),
    _adaln("empty-batch", 0, 32, width=48),
    _adaln("no-positions", 2, 0, width=48),
    _philox("latents", [0, 1, 2, 7], (32, 64)),
    _philox("odd", [3, 2**40 + 1, 2**63 - 1, -1], (3, 7), seed=2**64 - 3, stream=2**32 - 1),
    _philox("scalar-samples", [4, 5], ()),
    _philox("empty", [], (32, 64)),
    _philox("empty-samples", [1, 2], (0, 3)),
)
