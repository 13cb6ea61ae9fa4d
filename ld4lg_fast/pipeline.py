"""`TextDiffusionPipeline`: a trained run as one object that writes text.

Letters: N latent positions, d latent width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine import check_positive, sample_id_tensor, sample_latents
from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.latent_diffusion import LatentDiffusion
from ld4lg_fast.source import encode_sources
from ld4lg_fast.statistics import RunStatistics, describe_classes

SEQ2SEQ_GUIDANCE = 2.0  # the published default where there is a source

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class SampledLatents:
    """``latents`` (num_samples, N, d) float32, their ``mask`` (num_samples, N) in recipe v1, and the
    ``class_ids`` (num_samples,) of a class-conditional model (the null class is ``num_classes``)."""

    latents: Tensor
    mask: Tensor | None = None
    class_ids: Tensor | None = None


@dataclass(frozen=True)
class TextDiffusionOutput:
    """Sampled ``texts`` and what they were decoded from, see `SampledLatents`."""

    texts: list[str]
    latents: Tensor
    mask: Tensor | None = None
    class_ids: Tensor | None = None


class TextDiffusionPipeline:
    """Latent diffusion model and language autoencoder, ready to sample.

    >>> pipe = TextDiffusionPipeline.from_pretrained("outputs/demo")
    >>> pipe(num_samples=4, num_inference_steps=25, sampler="dpmpp_2m", seed=1).texts

    ``statistics`` tells the classes and lengths of the training texts; None: nothing is known of them.
    """

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        model: LatentDiffusion,
        statistics: RunStatistics | None = None,
    ) -> None:
        if autoencoder.dim_latent != model.denoiser.config.dim_latent:
            raise CheckpointError(
                f"The autoencoder's latents are {autoencoder.dim_latent} wide but the denoiser was trained on "
                f"{model.denoiser.config.dim_latent}; they belong to different runs."
            )
        self.autoencoder, self.model = autoencoder.eval(), model.eval()
        self.statistics = _with_class_names(statistics or RunStatistics(), model.denoiser.config.num_classes)

    @classmethod
    def from_pretrained(cls, run_dir: Path | str) -> "TextDiffusionPipeline":
        """Loads a run directory.

        Raises:
            CheckpointError: the folder does not exist, is no run, or has not finished its diffusion stage.
        """
        run_dir = Path(run_dir)
        if not run_dir.is_dir():
            raise CheckpointError(
                f"The run directory {run_dir} does not exist; train one with scripts/train.py."
            )
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
        return cls(autoencoder, LatentDiffusion.load(run_dir / "denoiser"), RunStatistics.load(run_dir))

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes a folder that `from_pretrained` reads."""
        self.autoencoder.save(Path(directory) / "autoencoder")
        self.model.save(Path(directory) / "denoiser")
        self.statistics.save(Path(directory))

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "TextDiffusionPipeline":
        """Moves both models; ``dtype`` is that of the networks, latents and schedules stay float32."""
        self.autoencoder.to(device=device, dtype=dtype)
        self.model.to(device=device)
        self.model.denoiser.to(dtype=dtype)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.latent_mean.device

    def default_guidance(self) -> float:
        """The published guidance scale: 2 with a source text, else 1 (none)."""
        return SEQ2SEQ_GUIDANCE if self.model.is_seq2seq else 1.0

    def __call__(
        self,
        num_samples: int = 1,
        *,
        decoding: DecodingConfig | None = None,
        seed: int = 0,
        batch_size: int = 64,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
        **options,
    ) -> TextDiffusionOutput:
        """Samples texts: `sample`, whose ``options`` these are, then `decode`.

        The same seed gives the same texts whatever the batch size. ``progress`` is called as
        ``progress(phase, done, total)`` with phase ``denoise`` or ``decode``.
        """
        shared = {"seed": seed, "batch_size": batch_size, "sample_ids": sample_ids, "progress": progress}
        sampled = self.sample(num_samples, **options, **shared)
        texts = self.decode(sampled.latents, decoding, mask=sampled.mask, **shared)
        return TextDiffusionOutput(texts, sampled.latents, sampled.mask, sampled.class_ids)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int = 1,
        *,
        num_inference_steps: int = 250,
        sampler: str | None = None,
        class_id: int | Sequence[int] | Tensor | None = None,
        class_name: str | None = None,
        source: Sequence[str] | str | None = None,
        guidance_scale: float | None = None,
        seed: int = 0,
        batch_size: int = 64,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> SampledLatents:
        """Samples latents, which `decode` turns into text.

        Args:
            sampler: a name in `samplers.SAMPLERS`; None is the one that the recipe was published with.
            class_id, class_name: one class, or an id for each sample. Without both: no class where the model
                was also trained without, else classes as often as in the training texts.
            source: one text for all samples or one for each, for a sequence-to-sequence model. Samples of the
                same source differ by their ids.
            guidance_scale: w in ``w·cond + (1-w)·uncond``; None is 2 with a source and 1 without.
            sample_ids: the samples' numbers, by default 0 … num_samples-1; a sample depends on the seed, its
                number and its conditions alone.

        Raises:
            ConfigError: an option out of range, or a condition that the model was not trained for or misses.
            CheckpointError: the run does not say how long its training texts were (recipe v1).
        """
        check_positive(num_samples=num_samples, batch_size=batch_size)
        ids = sample_id_tensor(sample_ids, num_samples, self.device)
        sources = self._sources(source, num_samples)
        class_ids = self._class_ids(class_id, class_name, seed, ids)
        lengths = mask = None
        if self.autoencoder.perceiver is None:
            positions = torch.arange(self.model.denoiser.config.max_len, device=self.device)
            lengths = self.statistics.draw_lengths(seed, ids)
            mask = positions < lengths[:, None]
        total, done = num_samples * num_inference_steps, 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress("denoise", done, total)

        def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
            texts = [sources[row] for row in rows.tolist()]
            return encode_sources(self.autoencoder, texts, self.model.source_max_len, self.device)

        latents = sample_latents(
            self.model,
            num_samples,
            sampler=sampler or self.model.default_sampler,
            num_steps=num_inference_steps,
            seed=seed,
            batch_size=batch_size,
            guidance_scale=self.default_guidance() if guidance_scale is None else guidance_scale,
            class_id=class_ids,
            context=None if sources is None else encode,
            lengths=lengths,
            # As published, only sequence-to-sequence sampling stays on the sphere (golden NOTES 27).
            project=self.model.is_seq2seq and self.model.diffusion.l2_normalized,
            sample_ids=ids,
            progress=advance,
        )
        return SampledLatents(latents, mask, class_ids)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        decoding: DecodingConfig | None = None,
        *,
        mask: Tensor | None = None,
        seed: int = 0,
        batch_size: int = 64,
        sample_ids: Tensor | Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[str]:
        """Texts from latents (num_samples, N, d) and their mask (recipe v1), both as `sample` gives them.

        ``decoding`` defaults to the paper's beam search; only nucleus sampling uses ``seed`` and ``sample_ids``.
        """
        check_positive(batch_size=batch_size)
        ids = sample_id_tensor(sample_ids, len(latents), self.device)
        texts: list[str] = []
        for start in range(0, len(latents), batch_size):
            rows = slice(start, start + batch_size)
            tokens = self.autoencoder.generate(
                latents[rows],
                decoding or DecodingConfig(),
                seed=seed,
                sample_ids=ids[rows],
                mask=None if mask is None else mask[rows],
            )
            texts += self.autoencoder.decode_text(tokens)
            if progress is not None:
                progress("decode", len(texts), len(latents))
        return texts

    def _sources(self, source: Sequence[str] | str | None, num_samples: int) -> list[str] | None:
        """One source for each sample, or None for a model that takes none."""
        if not self.model.is_seq2seq:
            if source is not None:
                raise ConfigError("A source text was given, but this model was trained without source texts.")
            return None
        if source is None:
            raise ConfigError(
                "This model writes from a source text; give source=[...], or infer.source_file=FILE on the "
                "command line."
            )
        sources = [source] * num_samples if isinstance(source, str) else list(source)
        if len(sources) != num_samples:
            raise ConfigError(
                f"There are {len(sources)} sources for {num_samples} samples; give one for each."
            )
        blank = next((index for index, text in enumerate(sources) if not text.strip()), None)
        if blank is not None:
            raise ConfigError(f"Source {blank + 1} of {num_samples} is blank; leave it out.")
        return sources

    def _class_ids(
        self,
        class_id: int | Sequence[int] | Tensor | None,
        class_name: str | None,
        seed: int,
        sample_ids: Tensor,
    ) -> Tensor | None:
        """An id (num_samples,) for each sample, or None for a model without classes."""
        num_classes = self.model.denoiser.config.num_classes
        if not num_classes:
            if class_id is not None or class_name is not None:
                given = f"class_id {class_id}" if class_name is None else f"class_name {class_name!r}"
                raise ConfigError(
                    f"{given} was given, but this model was trained without classes; leave it out."
                )
            return None
        if class_id is not None and class_name is not None:
            raise ConfigError(
                f"class_id {class_id} and class_name {class_name!r} exclude each other; give one of them."
            )
        if class_name is not None:
            class_id = self.statistics.class_index(class_name)
        if class_id is None:
            # Recipe v1 takes the null class whether or not it was trained (golden NOTES 59).
            if self.model.diffusion.discrete or self.model.diffusion.class_drop_prob > 0:
                return torch.full_like(sample_ids, num_classes)
            return self.statistics.draw_classes(seed, sample_ids)
        try:
            ids = torch.as_tensor(class_id, device=self.device)
        except (TypeError, ValueError, RuntimeError):
            ids = None
        if ids is None or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ConfigError(f"class_id {class_id!r} must be an integer, or one for each sample.")
        ids = ids.long()
        wrong = ids[(ids < 0) | (ids >= num_classes)]
        if wrong.numel():
            raise ConfigError(
                f"class_id {wrong.flatten()[0].item()} is out of range; this model has "
                f"{describe_classes(self.statistics.class_names)}."
            )
        if ids.dim() and ids.shape != sample_ids.shape:
            raise ConfigError(
                f"class_id has the shape {tuple(ids.shape)}; give one id or {len(sample_ids)} of them."
            )
        return ids.expand(len(sample_ids))


def _with_class_names(statistics: RunStatistics, num_classes: int) -> RunStatistics:
    """Statistics with a name for each class of the model, made up where none are stored."""
    names = statistics.class_names
    if not num_classes:
        return replace(statistics, class_names=None, class_counts=None)
    if names is None:
        return replace(statistics, class_names=tuple(f"class {index}" for index in range(num_classes)))
    if len(names) != num_classes:
        raise CheckpointError(
            f"The denoiser has {num_classes} classes but the statistics name {len(names)}; they belong to "
            "different runs."
        )
    return statistics
