"""The library against the reference on networks and settings that the golden cases do not have."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from benchmarks.reference import v1_denoiser, v1_diffusion, v2_autoencoder, v2_denoiser
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import TrainingDraws
from ld4lg_fast.diffusion.samplers import get_sampler, guided_denoiser
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.models import parameter_names

BATCH, LENGTH, WIDTH = 3, 7, 12
MASK = torch.arange(LENGTH) < torch.tensor([[7], [4], [1]])
CLOSE = {"atol": 2e-5, "rtol": 1e-5}


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomized(network: nn.Module) -> nn.Module:
    """Sets all parameters, zero-initialised ones included, to values of the magnitude of a trained network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(1 + 0.1 * noise if name.endswith(("weight", "gamma")) else 0.05 * noise)
            else:
                parameter.copy_(noise * (1.0 if "emb" in name else parameter.shape[-1] ** -0.5))
    return network.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 2},
        {"tx_dim": 128, "heads": 1, "scale_shift": False},
        {"tx_dim": 96, "heads": 3, "self_condition": False},
        {"tx_depth": 5, "num_dense_connections": 2, "class_conditional": True, "num_classes": 6},
        {"seq2seq": True, "seq2seq_context_dim": 20, "class_conditional": True, "num_classes": 2},
    ],
)
def test_v2_denoiser(changes):
    sizes = {"tx_dim": 64, "tx_depth": 2, "heads": 1, "latent_dim": WIDTH, "max_seq_len": 9}
    reference = randomized(v2_denoiser.DiffusionTransformer(**(sizes | changes)))
    ours = parameter_names.load_denoiser(reference.state_dict())
    x, x_self_cond = normal(BATCH, LENGTH, WIDTH), normal(BATCH, LENGTH, WIDTH, seed=2)
    time = torch.tensor([0.9, 0.4, 0.01])
    class_id = torch.tensor([0, 1, 2]) if changes.get("class_conditional") else None
    context = normal(BATCH, 4, 20, seed=3) if changes.get("seq2seq") else None
    context_mask = torch.arange(4) < torch.tensor([[4], [1], [2]])
    want = reference(x, MASK, time, x_self_cond, class_id, context, context_mask)
    got = ours(
        x,
        time,
        mask=MASK,
        x_self_cond=x_self_cond,
        class_id=class_id,
        context=context,
        context_mask=None if context is None else context_mask,
    )
    assert_close(got, want, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("widths", [(64, 128), (192, 64), (64, 64)])
@pytest.mark.parametrize("transformer_decoder", [True, False])
def test_v2_autoencoder(widths, transformer_decoder):
    reference = randomized(
        v2_autoencoder.PerceiverAutoencoder(
            dim_lm=widths[0],
            dim_ae=widths[1],
            depth=2,
            num_encoder_latents=3,
            num_decoder_latents=5,
            max_seq_len=9,
            ff_mult=2,
            transformer_decoder=transformer_decoder,
        )
    )
    ours = parameter_names.load_perceiver(reference.state_dict(), l2_normalize=False)
    states = normal(BATCH, LENGTH, widths[0])
    latents = reference.encode(states, MASK)
    assert_close(ours.encode(states, MASK), latents, **CLOSE)
    assert_close(ours.decode(latents), reference.decode(latents), **CLOSE)


def v1_pair(
    timesteps: int, objective: str, **changes
) -> tuple[v1_diffusion.GaussianDiffusion, LatentDiffusion]:
    sizes = {"x_dim": WIDTH, "seq_len": LENGTH, "hidden_dim": 64, "heads": 3, "depth": 2}
    reference = randomized(v1_denoiser.DiffusionTransformer(**(sizes | changes)))
    recipe = {
        "version": "v1",
        "objective": objective,
        "loss_type": "l1",
        "self_condition_prob": 0.5,
        "class_drop_prob": 0.0,
        "beta_schedule": "linear",
        "num_train_timesteps": timesteps,
    }
    process = v1_diffusion.GaussianDiffusion(reference, timesteps=timesteps, objective=objective)
    return process, LatentDiffusion(parameter_names.load_denoiser_v1(reference.state_dict()), recipe).eval()


@pytest.mark.parametrize("objective", ["pred_x0", "pred_noise"])
@pytest.mark.parametrize("t", [0, 1, 30])
def test_v1_near_data_and_at_padded_positions(objective, t):
    """Near data 1 - alpha_sq is tiny; the v1 loss reaches padded rows, whose gradients must be right."""
    reference, ours = v1_pair(50, objective)
    latents, noise = normal(BATCH, LENGTH, WIDTH), normal(BATCH, LENGTH, WIDTH, seed=2)
    ours.set_statistics(latents, MASK)
    steps = torch.full((BATCH,), t)
    want = reference(latents, MASK, t=steps, noise=noise, coin=0.0)
    got = ours.loss(latents, TrainingDraws(steps, noise, self_condition=True), mask=MASK)
    assert_close(got.prediction.noise, want.pred_noise, atol=1e-3, rtol=1e-5)
    assert_close(got.prediction.x_start, want.pred_x0, **CLOSE)
    assert_close(got.loss, want.loss, **CLOSE)
    want.loss.backward()
    got.loss.backward()
    norms = [
        torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
        for network in (ours.denoiser, reference.model)
    ]
    assert_close(*norms, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("steps", [50, 80])
def test_v1_sampling_down_to_the_first_timestep(steps):
    reference, ours = v1_pair(50, "pred_x0", use_class_condition=True, num_classes=3)
    z_start = normal(BATCH, LENGTH, WIDTH)
    want, _ = reference.sample([7, 4, 1], sampling_steps=steps, class_id=2, z_start=z_start)
    grid = sampling_grid(ours.diffusion.schedule, steps)
    denoise = guided_denoiser(ours, grid, mask=MASK, class_id=torch.full((BATCH,), 2))
    assert_close(ours.unnormalize(get_sampler("ddim")(denoise, z_start, grid)), want, **CLOSE)
