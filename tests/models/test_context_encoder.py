import pytest
import torch

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import TrainingDraws
from ld4lg_fast.models.context_encoder import BlockContext
from tests.conftest import RECIPE, randomize

DOCUMENTS = RECIPE | {"version": "v3", "context_blocks": 3, "context_layers": 1, "l2_normalized": True}
SIZES = {"dim": 64, "depth": 2, "dim_latent": 8, "max_len": 4, "num_dense_connections": 0, "dim_context": 64}


@pytest.fixture
def model():
    return randomize(LatentDiffusion.create(DOCUMENTS, SIZES | {"dropout": 0.0})).double()


@pytest.fixture
def context():
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(5, 4, 8, generator=generator, dtype=torch.float64)
    index = torch.randint(0, 5, (6, 3), generator=generator)
    counts = torch.randint(0, 4, (6,), generator=generator)
    begins, continues = torch.rand(2, 6, generator=generator) < 0.5
    return BlockContext(latents, index, counts, begins, continues)


def loss_and_gradients(model, **conditions):
    generator = torch.Generator().manual_seed(3)
    latents, noise = torch.randn(2, 6, 4, 8, generator=generator, dtype=torch.float64)
    draws = TrainingDraws(torch.rand(6, generator=generator, dtype=torch.float64), noise, True)
    model.zero_grad()
    loss = model.loss(latents, draws, **conditions).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_a_block_before_several_rows_is_projected_once_with_the_same_gradients(model, context):
    once, gradients = loss_and_gradients(model, blocks=context)
    states, mask = model.encode_blocks(context)
    each, expected = loss_and_gradients(model, context=states, context_mask=mask)
    torch.testing.assert_close(once, each)
    assert "context_encoder.distance_emb" in gradients and "denoiser.context_proj.bias" in gradients
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_both_passes_of_a_self_conditioned_step_share_their_conditions(model, context, monkeypatch):
    calls, conditions = [], model.denoiser.conditions

    def counted(*arguments, **given):
        calls.append(arguments)
        return conditions(*arguments, **given)

    monkeypatch.setattr(model.denoiser, "conditions", counted)
    loss_and_gradients(model, blocks=context)
    assert len(calls) == 1
