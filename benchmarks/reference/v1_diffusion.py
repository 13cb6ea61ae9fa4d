"""The unofficial implementation's diffusion process: betas, latent statistics, loss, DDIM.

Letters: B batch, N positions, d latent width, T training timesteps, S sampling steps.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss, "smooth_l1": F.smooth_l1_loss}
MAX_BETA = 0.999


def make_betas(name: str, timesteps: int) -> Tensor:
    """(T,) float64: ``linear`` 1e-4 to 0.02 whatever T is, ``cosine`` (s = 0.008), ``sqrt`` (s = 1e-4)."""
    if name == "linear":
        return torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64)
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    if name == "cosine":
        curve = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    elif name == "sqrt":
        curve = 1 - torch.sqrt(t + 1e-4)
    else:
        raise ValueError(f"unknown beta schedule {name!r}")
    curve = curve / curve[0]
    return (1 - curve[1:] / curve[:-1]).clamp(0, MAX_BETA)


def derived_buffers(betas: Tensor) -> dict[str, Tensor]:
    """Everything that the process stores, from betas (T,) float64; computed there, stored in float32."""
    alphas = 1 - betas
    cumprod = torch.cumprod(alphas, dim=0)
    previous = torch.cat((torch.ones_like(cumprod[:1]), cumprod[:-1]))
    variance = betas * (1 - previous) / (1 - cumprod)
    buffers = {
        "betas": betas,
        "alphas": alphas,
        "alphas_cumprod": cumprod,
        "alphas_cumprod_prev": previous,
        "sqrt_alphas_cumprod": cumprod.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - cumprod).sqrt(),
        "sqrt_recip_alphas_cumprod": (1 / cumprod).sqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / cumprod - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance": torch.log(variance.clamp(min=1e-20)),
        "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumprod),
        "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumprod),
    }
    return {name: buffer.float() for name, buffer in buffers.items()}


def sampling_timesteps(timesteps: int, num_steps: int) -> Tensor:
    """(S+1,) integer steps from T-1 down to -1, truncated toward zero; -1 stands for the end."""
    return torch.linspace(-1, timesteps - 1, num_steps + 1).int().long().flip(0)


def latent_statistics(latents: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and one scalar population std over each row's first ``mask.sum()`` positions of (B, N, d)."""
    lengths = mask.sum(dim=1).tolist()
    real = torch.cat([row[:length] for row, length in zip(latents, lengths, strict=True)])
    mean = real.mean(dim=0)
    return mean, (real - mean).std(unbiased=False)


@dataclass(frozen=True)
class Loss:
    """A training step's loss and what led to it; ids as each of the two passes saw them."""

    loss: Tensor
    x_t: Tensor
    pred_x0: Tensor
    pred_noise: Tensor
    x_self_cond: Tensor | None
    class_id: Tensor | None
    class_id_self_cond: Tensor | None


class GaussianDiffusion(nn.Module):
    """Trains and samples a v1 denoiser; the arguments carry the implementation's own names."""

    def __init__(
        self,
        model: nn.Module,
        *,
        timesteps: int = 1000,
        beta_schedule: str = "linear",
        objective: str = "pred_x0",
        loss_type: str = "l1",
        self_condition_prob: float = 0.5,
        class_uncondition_prob: float = 0.1,
    ) -> None:
        super().__init__()
        if objective not in ("pred_x0", "pred_noise"):
            raise ValueError(f"unknown objective {objective!r}")
        self.model = model
        self.timesteps, self.objective, self.loss_type = timesteps, objective, loss_type
        self.self_condition_prob, self.class_uncondition_prob = self_condition_prob, class_uncondition_prob
        for name, buffer in derived_buffers(make_betas(beta_schedule, timesteps)).items():
            self.register_buffer(name, buffer)
        self.register_buffer("x_mean", torch.zeros(model.x_dim))
        self.register_buffer("x_std", torch.ones(()))
        self.has_statistics = False

    def set_statistics(self, x_mean: Tensor, x_std: Tensor) -> None:
        self.x_mean, self.x_std, self.has_statistics = x_mean, x_std, True

    def normalize(self, x: Tensor) -> Tensor:
        return (x - self.x_mean) / (self.x_std + 1e-5)

    def unnormalize(self, x: Tensor) -> Tensor:
        return x * (self.x_std + 1e-5) + self.x_mean

    def model_predictions(
        self, x_t: Tensor, mask: Tensor, t: Tensor, x_self_cond: Tensor | None, class_id: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Clean latent and noise, (B, N, d) each, at integer steps t (B,)."""
        output = self.model(x_t, mask, t, x_self_cond, class_id)
        recip = self.sqrt_recip_alphas_cumprod[t][:, None, None]
        recipm1 = self.sqrt_recipm1_alphas_cumprod[t][:, None, None]
        if self.objective == "pred_noise":
            return recip * x_t - recipm1 * output, output
        return output, (recip * x_t - output) / recipm1

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor,
        class_id: Tensor | None = None,
        *,
        t: Tensor | None = None,
        noise: Tensor | None = None,
        coin: float | None = None,
        class_drop: Tensor | None = None,
    ) -> Loss:
        """Training loss of encoder states (B, N, d); what is not given (t, noise, coin, class_drop) is drawn.

        The first call sets the latent statistics. The mean runs over all positions, padded ones included.
        ``class_id`` (B,) is overwritten where a class is dropped, after the self-conditioning pass, as
        published.
        """
        if not self.has_statistics:
            self.set_statistics(*latent_statistics(hidden_states, attention_mask))
        x_0, batch, device = self.normalize(hidden_states), hidden_states.shape[0], hidden_states.device
        t = torch.randint(self.timesteps, (batch,), device=device) if t is None else t
        noise = torch.randn_like(x_0) if noise is None else noise
        signal = self.sqrt_alphas_cumprod[t][:, None, None]
        x_t = signal * x_0 + self.sqrt_one_minus_alphas_cumprod[t][:, None, None] * noise

        x_self_cond = first_id = None
        if self.model.use_self_condition and coin is None:
            coin = random.random()
        if self.model.use_self_condition and coin < self.self_condition_prob:
            first_id = None if class_id is None else class_id.clone()
            with torch.no_grad():
                x_self_cond, _ = self.model_predictions(x_t, attention_mask, t, None, class_id)
        if class_id is not None:
            if class_drop is None:
                class_drop = torch.rand(batch, device=device) < self.class_uncondition_prob
            class_id[class_drop] = self.model.num_classes
        pred_x0, pred_noise = self.model_predictions(x_t, attention_mask, t, x_self_cond, class_id)
        output, target = (pred_noise, noise) if self.objective == "pred_noise" else (pred_x0, x_0)
        loss = LOSSES[self.loss_type](output, target)
        return Loss(loss, x_t, pred_x0, pred_noise, x_self_cond, class_id, first_id)

    def class_ids(self, batch: int, class_id: int | None) -> Tensor | None:
        """(B,) ids for sampling: one class for the whole batch, the null id when none is given."""
        if not self.model.use_class_condition:
            return None
        return torch.full(
            (batch,), self.model.num_classes if class_id is None else class_id, device=self.betas.device
        )

    @torch.no_grad()
    def sample(
        self,
        lengths: Sequence[int],
        sampling_steps: int = 250,
        eta: float = 0.0,
        class_id: int | None = None,
        *,
        z_start: Tensor | None = None,
        noise: Tensor | None = None,
        callback: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """DDIM from noise to un-normalised encoder states (B, N, d), and their mask (B, N).

        Args:
            z_start, noise: recorded draws, (B, N, d) and (S-1, B, N, d); drawn by torch where absent.
            callback: called with (step, latent after it, clean latent predicted in it).
        """
        device = self.betas.device
        batch, length = len(lengths), self.model.seq_len
        mask = torch.arange(length, device=device) < torch.tensor(lengths, device=device)[:, None]
        x_t = torch.randn((batch, length, self.model.x_dim), device=device) if z_start is None else z_start
        ids = self.class_ids(batch, class_id)
        steps = sampling_timesteps(self.timesteps, sampling_steps).tolist()
        x_0 = None
        for step, (now, after) in enumerate(zip(steps[:-1], steps[1:], strict=True)):
            t = torch.full((batch,), now, device=device)
            x_0, pred_noise = self.model_predictions(x_t, mask, t, x_0, ids)
            if after < 0:
                x_t = x_0
            else:
                alpha, alpha_next = self.alphas_cumprod[now], self.alphas_cumprod[after]
                sigma = eta * ((1 - alpha / alpha_next) * (1 - alpha_next) / (1 - alpha)).sqrt()
                # Drawn even where eta is 0, which moves the generator on, as published.
                fresh = torch.randn_like(x_t) if noise is None else noise[step]
                direction = (1 - alpha_next - sigma**2).sqrt() * pred_noise
                x_t = alpha_next.sqrt() * x_0 + direction + sigma * fresh
            if callback is not None:
                callback(step, x_t, x_0)
        return self.unnormalize(x_t), mask
