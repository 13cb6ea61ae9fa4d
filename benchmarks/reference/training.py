"""The official release's training step for both stages, as its authors run it.

The frozen language model encodes the batch anew at every step, gradient norm and average are Python loops over
the parameters, and loss and norm are read from the device at once. Letters: B batch, T tokens, N latents.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from benchmarks.reference import v1_diffusion, v2_diffusion
from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder

CLIP_NORM = 1.0
Process = v1_diffusion.GaussianDiffusion | v2_diffusion.GaussianDiffusion


class Ema:
    """The average of a model, moved after every step with decay ``min(max_decay, 1 - (1 + step)^-3/4)``."""

    def __init__(self, model: nn.Module, max_decay: float) -> None:
        self.online, self.average = model, copy.deepcopy(model).requires_grad_(False)
        self.max_decay, self.steps = max_decay, 0

    @torch.no_grad()
    def update(self) -> None:
        decay = min(self.max_decay, 1 - (1 + self.steps) ** -0.75)
        for average, current in zip(self.average.parameters(), self.online.parameters(), strict=True):
            difference = average.data - current.data
            difference.mul_(1 - decay)
            average.sub_(difference)
        self.steps += 1


class Trainer:
    """Trains ``model`` on ``loss(batch)`` with AdamW; vectors are not decayed."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[..., Tensor],
        learning_rate: float,
        weight_decay: float,
        ema_decay: float | None = None,
    ) -> None:
        self.loss, self.parameters = loss, [p for p in model.parameters() if p.requires_grad]
        matrices = [p for p in self.parameters if p.ndim >= 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0}]
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate)
        self.ema = None if ema_decay is None else Ema(model, ema_decay)

    def step(self, *batch, **draws) -> tuple[float, float]:
        """Loss and gradient norm of one step."""
        loss = self.loss(*batch, **draws)
        loss.backward()
        norms = [p.grad.detach().norm() for p in self.parameters if p.grad is not None]
        norm = torch.stack(norms).norm().item()
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update()
        return loss.item(), norm


def diffusion_loss(
    process: Process, lm: PreTrainedModel, autoencoder: PerceiverAutoencoder | None
) -> Callable[..., Tensor]:
    """The loss of token ids (B, T) and their mask; without an autoencoder the states are the latents (v1)."""

    def loss(input_ids: Tensor, attention_mask: Tensor, **draws) -> Tensor:
        with torch.no_grad():
            states = lm.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            if autoencoder is None:
                mask, latents = attention_mask, states
            else:
                latents = process.normalize_latent(autoencoder.encode(states, attention_mask))
                mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device)
        return process(latents, mask, **draws).loss

    return loss


def autoencoder_loss(autoencoder: PerceiverAutoencoder, lm: PreTrainedModel) -> Callable[..., Tensor]:
    """The teacher-forced cross-entropy of token ids (B, T) whose padding is ignored."""

    def loss(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = lm.get_encoder()(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        states = autoencoder(states, attention_mask)
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        return lm(encoder_outputs=BaseModelOutput(last_hidden_state=states), labels=labels).loss

    return loss
