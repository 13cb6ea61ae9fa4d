"""A step of every sample's own: what each sample gets is what it gets alone."""

import pytest
import torch

from ld4lg_fast.kernels import backend, ops
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.kernels.sampler_step.cases import step_arguments

ON_CPU = "triton" if backend.INTERPRETED else "native"


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("name", ["reference", ON_CPU])
def test_a_sample_among_others_is_the_sample_alone(name, guided):
    if backend.unavailable_reason(name) is not None:
        pytest.skip(backend.unavailable_reason(name))
    make = step_arguments(5, 3, 8, guided=guided, history=True, each=True)
    arguments = make(torch.Generator().manual_seed(0))
    given = {
        name: value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in arguments.items()
    }
    with use_backend(name):
        together = ops.sampler_step(**given)
        for row in range(5):
            first, step = given["first"][row], given["step"][row]
            alone = given | {
                "output": given["output"].view(-1, 5, 3, 8)[:, row],
                **{name: given[name][first:] for name in ("coefficients", "noise_streams", "noise_weights")},
                "first": None,
                "step": step,
                "seed": given["seed"][row],
            }
            alone |= {kept: given[kept][row : row + 1] for kept in ("z", "x_prev", "sample_ids")}
            for got, want in zip(together, ops.sampler_step(**alone), strict=True):
                assert torch.equal(got[row], want[0])
    assert together[0].isfinite().all()
