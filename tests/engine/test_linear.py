"""The C++ matmul for few rows, and the choice of matmuls."""

import pytest
import torch

from ld4lg_fast.kernels import backend, native, ops

needs_library = pytest.mark.skipif(
    backend.unavailable_reason("native") is not None, reason="needs the C++ library"
)


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("rows", [1, 2, 5, 7, 13, 40, 128])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (37, 50), (5, 1), (768, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows(variant, rows, inputs, outputs, dtype):
    """The error against the float64 matmul is at most twice that of torch's float32 matmul."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2 * inputs, generator=generator)[:, :inputs]  # rows apart
    weight = torch.randn(outputs, inputs, generator=generator).to(dtype)
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
            got = ops.PackedLinear(weight, b, gelu)(x, r)
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
    linear = ops.PackedLinear(torch.ones(4, 8), None)
    assert linear(torch.empty(0, 8)).shape == (0, 4)


# Error from rounding both factors, relative to the result's root mean square: to bf16, to int8.
ROUNDING = {torch.bfloat16: 2**-8, torch.int8: 0.02}


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", list(ROUNDING))
@pytest.mark.parametrize("geglu", [False, True])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 768, 34), (13, 37, 50), (29, 64, 96), (5, 5, 2)])
def test_narrow_products(variant, dtype, geglu, rows, inputs, outputs):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 2 * inputs, generator=generator)[:, :inputs]  # rows apart
    weight, bias = (
        torch.randn(outputs, inputs, generator=generator),
        torch.randn(outputs, generator=generator),
    )
    product = torch.nn.functional.linear(x, weight, bias)
    noise = ROUNDING[dtype] * product.square().mean().sqrt()
    want, slack = product, 6 * noise
    if geglu:
        value, gate = product.chunk(2, dim=-1)
        want = value * torch.nn.functional.gelu(gate)
        slack = 6 * noise * (1 + value.abs() + gate.abs())
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        linear = ops.NarrowLinear(weight, bias, dtype, geglu)
        got = linear(x)
        assert got.shape == want.shape and ((got - want).abs() <= slack).all()
        assert torch.equal(linear(x[-1:]), got[-1:]), "a row does not depend on its neighbours"
        rounded = linear(x.bfloat16())
        assert rounded.dtype == torch.bfloat16 and ((rounded - want).abs() <= 2 * slack).all()
        assert linear(x[:0]).shape == (0, want.shape[1])
        assert not linear(torch.zeros_like(x)).sub(linear(torch.zeros(1, inputs))).any()


@needs_library
@pytest.mark.parametrize("variant", native.INSTRUCTION_SETS)
@pytest.mark.parametrize("rows", [1, 5, 13, 40])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 96), (37, 50), (5, 1), (1024, 33)])
def test_products_of_bytes(variant, rows, inputs, outputs):
    """Exact where weight and rows hold what bytes can, each row times a power of two of its own."""
    generator = torch.Generator().manual_seed(0)
    reach = 63 if variant in ("avx512", "avx2") else 127  # of x: these add two products in 16 bits

    def levels(rows, columns, reach):
        matrix = torch.randint(-reach, reach + 1, (rows, columns), generator=generator).float()
        matrix[:, 0] = reach  # of a row of full range
        return matrix * 2.0 ** torch.randint(-8, 9, (rows, 1), generator=generator)

    x, weight = levels(rows, 2 * inputs, reach)[:, :inputs], levels(outputs, inputs, 127)
    x[0] = 0.0
    want = (x.double() @ weight.double().t()).float()
    with native.use_instruction_set(variant) as there:
        if not there:
            pytest.skip(f"this processor has no {variant}")
        assert torch.equal(ops.NarrowLinear(weight, None, torch.int8)(x), want)


@needs_library
def test_a_large_row_leaves_the_others_their_bytes():
    x, weight = torch.randn(3, 64), torch.randn(32, 64)
    x[1] *= 1e6
    want = torch.nn.functional.linear(x, weight)
    error = ops.NarrowLinear(weight, None, torch.int8)(x) - want
    assert (error.norm(dim=1) <= 0.03 * want.norm(dim=1)).all()
