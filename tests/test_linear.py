"""The C++ product with few rows, and the choice of products."""

import pytest
import torch

from ld4lg_fast.kernels import backend, native

needs_library = pytest.mark.skipif(
    backend.unavailable_reason("native") is not None, reason="needs the C++ library"
)


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 13, 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (37, 50), (5, 1), (768, 33)])
def test_few_rows(variant, rows, inputs, outputs):
    """As near to the float64 product as torch's own float32 product is, twice that at most."""
    from ld4lg_fast.kernels.cpu.linear import linear, pack

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2 * inputs, generator=generator)[:, :inputs]  # rows apart
    weight = torch.randn(outputs, inputs, generator=generator)
    bias, residual = (
        torch.randn(outputs, generator=generator),
        torch.randn(rows, outputs, generator=generator),
    )
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        for b, r, gelu in (
            (None, None, False),
            (bias, residual, True),
            (bias, residual.t().contiguous().t(), False),
        ):
            got = linear(x, pack(weight), outputs, b, r, gelu)
            exact, plain = (
                torch.nn.functional.linear(x.to(kind), weight.to(kind), None if b is None else b.to(kind))
                for kind in (torch.float64, torch.float32)
            )
            if gelu:
                exact, plain = torch.nn.functional.gelu(exact), torch.nn.functional.gelu(plain)
            if r is not None:
                exact, plain = exact + r, plain + r
            slack = 2 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
            assert got.shape == (rows, outputs) and (got - exact).abs().max() <= slack


@needs_library
def test_no_rows():
    from ld4lg_fast.kernels.cpu.linear import linear, pack

    assert linear(torch.empty(0, 8), pack(torch.ones(4, 8)), 4, None, None).shape == (0, 4)
