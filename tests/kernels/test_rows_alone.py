"""Matmuls with packed weights give a row the same bits whatever rows stand beside it, with any number of threads."""

import pytest
import torch

from ld4lg_fast.kernels import backend, native, ops

pytestmark = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")
ROWS = 29


def linears(inputs, outputs):
    generator = torch.Generator().manual_seed(inputs)
    weight, bias = (
        torch.randn(outputs, inputs, generator=generator),
        torch.randn(outputs, generator=generator),
    )
    yield ops.PackedLinear(weight, bias)
    yield ops.PackedLinear(weight, bias, gelu=True)
    yield ops.PackedLinear(weight.bfloat16(), bias)
    for dtype in (torch.bfloat16, torch.int8):
        yield ops.NarrowLinear(weight, bias, dtype)
        yield ops.NarrowLinear(weight, bias, dtype, geglu=True)


@pytest.mark.parametrize("instruction_set", native.INSTRUCTION_SETS)
@pytest.mark.parametrize(("inputs", "outputs"), [(7, 6), (64, 192), (257, 66)])
def test_a_row_has_the_same_bits_beside_any_others(instruction_set, inputs, outputs):
    x = torch.randn(ROWS, inputs, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    with native.use_instruction_set(instruction_set) as runs:
        if not runs:
            pytest.skip(f"this processor has no {instruction_set}")
        for linear in linears(inputs, outputs):
            whole = linear(x)
            for count in (1, 2, 3, 5, 12, 13):
                parts = [linear(part) for part in x.flip(0).split(count)]
                assert torch.equal(torch.cat(parts).flip(0), whole)
            torch.set_num_threads(3 - min(threads, 2))
            try:
                assert torch.equal(linear(x), whole)
            finally:
                torch.set_num_threads(threads)
