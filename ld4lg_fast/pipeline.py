"""`TextDiffusionPipeline`: a trained run as one object that writes text.

Letters: N latent positions, d latent width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine import sample_latents
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.latent_diffusion import LatentDiffusion


@dataclass(frozen=True)
class TextDiffusionOutput:
    """Sampled ``texts`` and the ``latents`` (num_samples, N, d) float32 that they were decoded from."""

    texts: list[str]
    latents: Tensor


class TextDiffusionPipeline:
    """Latent diffusion model and language autoencoder, ready to sample.

    >>> pipe = TextDiffusionPipeline.from_pretrained("outputs/demo")
    >>> pipe(num_samples=4, num_inference_steps=25, sampler="dpmpp_2m", seed=1).texts
    """

    def __init__(self, autoencoder: LanguageAutoencoder, model: LatentDiffusion) -> None:
        if autoencoder.dim_latent != model.denoiser.config.dim_latent:
            raise CheckpointError(
                f"The autoencoder's latents are {autoencoder.dim_latent} wide but the denoiser was trained on "
                f"{model.denoiser.config.dim_latent}; they belong to different runs."
            )
        self.autoencoder, self.model = autoencoder.eval(), model.eval()

    @classmethod
    def from_pretrained(cls, run_dir: Path | str) -> "TextDiffusionPipeline":
        """Loads a run directory.

        Raises:
            CheckpointError: the folder does not exist, is no run, or has not finished its diffusion stage.
        """
        run_dir = Path(run_dir)
        if not run_dir.is_dir():
            raise CheckpointError(f"The run directory {run_dir} does not exist; train one with scripts/train.py.")
        if not (run_dir / "autoencoder" / "autoencoder.json").exists():
            raise CheckpointError(
                f"{run_dir} is not a finished run: it has no autoencoder; train it with "
                f"python scripts/train.py hydra.run.dir={run_dir}."
            )
        if not (run_dir / "denoiser" / "config.json").exists():
            raise CheckpointError(
                f"{run_dir} has an autoencoder but no denoiser yet; train it with "
                f"python scripts/train.py hydra.run.dir={run_dir} train.stage=diffusion."
            )
        autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder")
        return cls(autoencoder, LatentDiffusion.load(run_dir / "denoiser"))

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes a folder that `from_pretrained` reads."""
        self.autoencoder.save(Path(directory) / "autoencoder")
        self.model.save(Path(directory) / "denoiser")

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "TextDiffusionPipeline":
        """Moves both models; ``dtype`` is that of the networks, latents and schedules stay float32."""
        self.autoencoder.to(device=device, dtype=dtype)
        self.model.to(device=device)
        self.model.denoiser.to(dtype=dtype)
        return self

    @torch.no_grad()
    def __call__(
        self,
        num_samples: int = 1,
        *,
        num_inference_steps: int = 250,
        sampler: str = "ddpm",
        decoding: DecodingConfig | None = None,
        class_id: int | Tensor | None = None,
        guidance_scale: float = 1.0,
        seed: int = 0,
        batch_size: int = 64,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> TextDiffusionOutput:
        """Samples texts. The same seed gives the same texts whatever the batch size.

        Args:
            decoding: defaults to the paper's beam search.
            progress: called as ``progress(phase, done, total)`` with phase ``denoise`` or ``decode``.

        Other arguments and errors as in `engine.sample_latents`.
        """
        done = 0

        def advance(phase: str, count: int, total: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(phase, done, total)

        latents = sample_latents(
            self.model,
            num_samples,
            sampler=sampler,
            num_steps=num_inference_steps,
            seed=seed,
            batch_size=batch_size,
            guidance_scale=guidance_scale,
            class_id=class_id,
            progress=lambda count: advance("denoise", count, num_samples * num_inference_steps),
        )
        done = 0
        texts: list[str] = []
        for start in range(0, num_samples, batch_size):
            rows = slice(start, min(start + batch_size, num_samples))
            ids = self.autoencoder.generate(
                latents[rows], decoding or DecodingConfig(), seed=seed, sample_ids=torch.arange(rows.start, rows.stop)
            )
            texts += self.autoencoder.decode_text(ids)
            advance("decode", rows.stop - rows.start, num_samples)
        return TextDiffusionOutput(texts, latents)
