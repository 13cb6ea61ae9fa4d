"""Latents to texts in the sampling benchmark: language model and Perceiver of a config's size, with random weights."""

from dataclasses import replace
from functools import partial

import torch
from decode_throughput import published, random_model
from harness import interleaved
from torch import Tensor

from benchmarks.paper_models import SamplingSetup
from ld4lg_fast.decoding import DecodingConfig, generate_ids
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig

MAX_LENGTH, ROUNDS = 32, 3
BEAM = DecodingConfig(max_length=MAX_LENGTH)


class TextDecoding:
    """Of the latents that a setup's denoiser makes; recipe v1's are encoder states themselves."""

    def __init__(self, setup: SamplingSetup, config: str, device: str) -> None:
        self.device = device
        self.lm = random_model("small" if config == "small" else "bart-base").to(device)
        denoiser, self.perceiver = setup.ours.denoiser.config, None
        if not setup.ours.diffusion.discrete:
            sizes = {"dim_latent": denoiser.dim_latent, "num_latents": denoiser.max_len}
            self.perceiver = Perceiver(PerceiverConfig(self.lm.config.d_model, **sizes)).to(device).eval()

    @torch.no_grad()
    def states(self, latents: Tensor) -> Tensor:
        return latents if self.perceiver is None else self.perceiver.decode(latents)

    def seconds(self, latents: Tensor, ways: set[str]) -> dict[str, float]:
        """Of the batch, by beam search: "published" is ``generate`` in fp32, a precision is ours."""
        states = self.states(latents)
        runs = {}
        for way in ways:
            own = replace(BEAM, precision=None if way == "published" else way)
            ours = partial(generate_ids, self.lm, states, own, MAX_LENGTH)
            runs[way] = partial(published(self.lm, states, None, BEAM), None) if way == "published" else ours
        with torch.no_grad():
            timings = interleaved(runs, self.device, ROUNDS, round_seconds=0)
        return {name: timing.median for name, timing in timings.items()}
