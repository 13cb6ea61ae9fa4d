"""Both published systems at the papers' sizes with random weights, and this library's models of the same weights."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.reference import v1_denoiser, v1_diffusion, v2_denoiser, v2_diffusion
from ld4lg_fast.data import load_text_dataset, train_bpe_tokenizer
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import LD4LGError
from ld4lg_fast.models import parameter_names

V2_SIZES = {
    "paper-v2": {"tx_dim": 768, "tx_depth": 12, "heads": 12, "max_seq_len": 32, "num_dense_connections": 3},
    "small": {"tx_dim": 192, "tx_depth": 6, "heads": 3, "max_seq_len": 8, "num_dense_connections": 0},
}
LATENT_WIDTH = {"paper-v2": 64, "small": 32}
V1_SIZES = {"x_dim": 768, "seq_len": 64, "hidden_dim": 768, "heads": 12, "depth": 12}
_COIN_AND_DROP = {"self_condition_prob": 0.5, "class_drop_prob": 0.1}
V2_RECIPE = _COIN_AND_DROP | {
    "version": "v2",
    "objective": "pred_v",
    "loss_type": "l2",
    "schedule": "cosine",
    "schedule_scale": 1.0,
    "sampling_schedule": None,
    "l2_normalized": False,
}
V1_RECIPE = _COIN_AND_DROP | {
    "version": "v1",
    "objective": "pred_x0",
    "loss_type": "l1",
    "beta_schedule": "linear",
    "num_train_timesteps": 1000,
}
NUM_CLASSES = 4
CONFIGS = (*V2_SIZES, "paper-v1")


@dataclass
class SamplingSetup:
    """A config's published network and ours, of the same weights, and the published loop around the former.

    ``lengths(batch)`` are recipe v1's real positions (B,), None in v2.
    """

    network: nn.Module
    ours: LatentDiffusion
    sampler: str
    lengths: Callable[[int], Tensor | None]
    make_process: Callable[[nn.Module, int], nn.Module]

    def sample_published(
        self,
        network: nn.Module,
        batch: int,
        num_steps: int,
        noise: Callable[[int], Tensor],
        lengths: Tensor | None = None,
        class_id: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Latents (B, N, d) of the published loop around ``network``; ``noise(-1)`` is where it starts."""
        process = self.make_process(network, num_steps).to(next(network.parameters()).device).eval()
        given = {"z_start": noise(-1), "noise": _Draws(noise)}
        if self.ours.diffusion.discrete:
            latents, _ = process.sample(lengths.tolist(), num_steps, class_id=class_id, **given)
            return latents
        ids = None if class_id is None else torch.full((batch,), class_id, device=given["z_start"].device)
        return process.sample(batch, class_id=ids, cls_free_guidance=guidance_scale, **given)


class _Draws:
    """The noise of a step, made when the published loop asks for it."""

    def __init__(self, noise: Callable[[int], Tensor]) -> None:
        self.noise = noise

    def __getitem__(self, step: int) -> Tensor:
        return self.noise(step)


def make_setup(config: str, device: str, num_classes: int = 0) -> SamplingSetup:
    """A config of `CONFIGS` on a device; ``num_classes`` above 0 makes it class-conditional, for guidance."""
    torch.manual_seed(0)
    setup = _v1(num_classes) if config == "paper-v1" else _v2(config, num_classes)
    setup.network.to(device).eval()
    setup.ours.to(device).eval()
    return setup


def _randomize(network: nn.Module) -> dict[str, Tensor]:
    """Random values where the published initialisation has zeros, which would make every output zero."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return network.state_dict()


def _v2(config: str, num_classes: int) -> SamplingSetup:
    sizes, width = V2_SIZES[config], LATENT_WIDTH[config]
    network = v2_denoiser.DiffusionTransformer(
        **sizes, latent_dim=width, class_conditional=num_classes > 0, num_classes=num_classes
    )
    ours = LatentDiffusion(parameter_names.load_denoiser(_randomize(network)), V2_RECIPE)

    def make_process(network: nn.Module, num_steps: int) -> nn.Module:
        length = sizes["max_seq_len"]
        return v2_diffusion.GaussianDiffusion(network, max_seq_len=length, sampling_timesteps=num_steps)

    return SamplingSetup(network, ours, "ddpm", lambda batch: None, make_process)


def _v1(num_classes: int) -> SamplingSetup:
    network = v1_denoiser.DiffusionTransformer(
        **V1_SIZES, use_class_condition=num_classes > 0, num_classes=num_classes or None
    )
    ours = LatentDiffusion(parameter_names.load_denoiser_v1(_randomize(network)), V1_RECIPE)

    def make_process(network: nn.Module, num_steps: int) -> nn.Module:
        process = v1_diffusion.GaussianDiffusion(network)
        process.set_statistics(torch.zeros(V1_SIZES["x_dim"]), torch.ones(()))
        return process

    lengths = corpus_lengths()

    def first_lengths(batch: int) -> Tensor:
        return lengths.repeat(batch // len(lengths) + 1)[:batch]

    return SamplingSetup(network, ours, "ddim", first_lengths, make_process)


def corpus_lengths(limit: int = 64) -> Tensor:
    """Token lengths of E2E's training texts in random order, or of the demo corpus if E2E is not available.

    The tokens are those of a byte-level BPE of 8,192 trained on the corpus, special tokens included.
    """
    try:
        texts = load_text_dataset("e2e").train.texts
    except LD4LGError:
        texts = load_text_dataset("demo").train.texts
    tokenizer = train_bpe_tokenizer(texts[:5000], vocab_size=8192)
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:1024]
    ids = tokenizer([texts[i] for i in order.tolist()])["input_ids"]
    return torch.tensor([min(len(row), limit) for row in ids])
