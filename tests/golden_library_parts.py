"""Helpers of the library's outputs for golden cases: recorded denoisers, forward calls, training loss, gradients."""

import copy
from types import SimpleNamespace

import torch
from golden_cases import Case, Steps, given
from torch import Tensor, nn

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.process import LossOutput, Prediction, TrainingDraws
from ld4lg_fast.models import parameter_names
from ld4lg_fast.models.perceiver import Perceiver


class RecordedDenoiser(nn.Module):
    """Returns recorded outputs row by row: for each row the conditional output and then, if recorded, the
    unconditional one. Keeps the inputs of all calls."""

    def __init__(self, dim_latent: int, outputs: list[Tensor], num_classes: int = 0) -> None:
        super().__init__()
        self.config = SimpleNamespace(dim_latent=dim_latent, num_classes=num_classes, null_class=num_classes)
        self.outputs = outputs
        self.calls: list[dict[str, Tensor]] = []

    def forward(self, z_t: Tensor, time: Tensor, *, class_id: Tensor | None = None, **inputs) -> Tensor:
        row, which = divmod(len(self.calls), len(self.outputs))
        self.calls.append({"time": time, "class_id": class_id})
        return self.outputs[which][row][None]


class Watch:
    """Records the keyword arguments of every forward call of a denoiser."""

    def __init__(self, denoiser: nn.Module) -> None:
        self.calls: list[dict[str, Tensor | None]] = []
        denoiser.register_forward_pre_hook(
            lambda module, args, kwargs: self.calls.append(kwargs), with_kwargs=True
        )


class PredictionSteps(Steps):
    """Steps of the library's samplers, which pass the whole prediction."""

    def __call__(self, step: int, z: Tensor, prediction: Prediction) -> None:
        super().__call__(step, z, prediction.x_start)


# Published names of a denoiser's inputs, by ours.
INPUTS = {
    "mask": ("mask", "x_mask"),
    "x_self_cond": ("x_self_cond",),
    "class_id": ("class_id",),
    "context": ("seq2seq_cond",),
    "context_mask": ("seq2seq_mask",),
}


def denoiser_output(denoiser: nn.Module, case: Case) -> dict[str, Tensor]:
    """Output of a denoiser of either version for a case's inputs."""
    inputs = case.inputs
    conditions = {ours: inputs[name] for ours, names in INPUTS.items() for name in names if name in inputs}
    return {"out": denoiser(inputs["x"], inputs["time" if "time" in inputs else "t"], **conditions)}


def perceiver_outputs(perceiver: Perceiver, case: Case) -> dict[str, Tensor]:
    inputs = case.inputs
    latents = perceiver.encode(inputs["encoder_outputs"], inputs["attention_mask"])
    decoded = perceiver.decode(latents)
    outputs = {"latents": latents, "decoded": decoded, "forward": decoded}
    if "free_latents" in inputs:
        outputs["decoded_free_latents"] = perceiver.decode(inputs["free_latents"])
    return outputs


def gradients(network: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """``grad/<published name>`` of every parameter, and the norm of all of them.

    The gradients take the parameters' places in a copy, so that fused ones come apart as in a checkpoint.
    """
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    stand_in = copy.deepcopy(network)
    with torch.no_grad():
        for parameter, grad in zip(stand_in.parameters(), grads, strict=True):
            parameter.copy_(grad)
    published = parameter_names.to_published(stand_in.state_dict(), names)
    norm = torch.stack([grad.norm() for grad in grads]).norm()
    return {f"grad/{name}": grad for name, grad in published.items()} | {"grad_norm": norm}


def training_loss(
    model: LatentDiffusion, case: Case, latents: Tensor, mask: Tensor, t: Tensor
) -> tuple[LossOutput, dict[str, Tensor]]:
    """The loss with the case's draws, and the outputs that both versions call by the same name."""
    inputs, watch = case.inputs, Watch(model.denoiser)
    coin = inputs["coin"].item() if "coin" in inputs else 0.0
    draws = TrainingDraws(
        t=t,
        noise=inputs["noise"],
        self_condition=coin < model.diffusion.self_condition_prob,
        class_drop=inputs.get("class_drop"),
    )
    result = model.loss(
        latents,
        draws,
        mask=mask,
        class_id=inputs.get("class_id"),
        context=inputs.get("seq2seq_cond"),
        context_mask=inputs.get("seq2seq_mask"),
    )
    result.loss.backward()
    last, first = watch.calls[-1], watch.calls[0] if len(watch.calls) > 1 else {}
    return result, given(
        loss=result.loss,
        x_self_cond=last.get("x_self_cond"),
        class_id_used=last.get("class_id"),
        class_id_used_by_self_cond_pass=first.get("class_id"),
    )
