"""What a pipeline is made of, loaded, saved and moved: language autoencoder, denoiser, statistics, decoding."""

from pathlib import Path
from typing import Self

import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine.regional_compile import compile_regions
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.options.checks import checked_path, checked_place
from ld4lg_fast.pipeline.components import load_components, save_components
from ld4lg_fast.pipeline.sources import check_source_length
from ld4lg_fast.pipeline.statistics import RunStatistics

SEQ2SEQ_GUIDANCE = 2.0  # the published default where there is a source

logger = get_logger("ld4lg_fast")


class StoredPipeline:
    """The part of `TextDiffusionPipeline` that has nothing to do with sampling."""

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        model: LatentDiffusion,
        statistics: RunStatistics | None = None,
        decoding: DecodingConfig | None = None,
    ) -> None:
        model.check_latents_of(autoencoder.num_latents, autoencoder.dim_latent)
        check_source_length(autoencoder, model)
        self.autoencoder, self.model = autoencoder.eval(), model.eval()
        self.decoding = decoding or DecodingConfig()
        known = statistics or RunStatistics()
        self.statistics = known.of_classes(model.denoiser.config.num_classes).of_lengths(autoencoder.max_len)

    @classmethod
    def from_pretrained(cls, path_or_hub: Path | str | None = None, revision: str | None = None) -> Self:
        """Loads a run directory, a model that ships by its name, or a repository ``owner/name`` of the hub.

        The weights become float32.

        Args:
            path_or_hub: None is the model that ships (see `shipped.shipped_models`). A run of one's
                own comes first, then a model that ships, then the hub.
            revision: branch, tag or commit of the repository.

        Raises:
            CheckpointError: the folder or repository does not exist, is no run, or has not finished its
                diffusion stage.
            ConfigError: ``path_or_hub`` is no path.
        """
        return cls(*load_components(path_or_hub, revision))

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes a folder that `from_pretrained` reads.

        Raises:
            CheckpointError: it cannot be written to.
            ConfigError: no path, or another process is writing into it.
        """
        directory = checked_path("directory", directory)
        save_components(directory, self.autoencoder, self.model, self.statistics, self.decoding)

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Moves both models, as ``to("cuda", torch.bfloat16)`` or ``to(torch.bfloat16)``.

        ``dtype`` is that of the networks, latents and schedules stay float32.

        Raises:
            ConfigError: a device that is not there, or what is no dtype of floating-point numbers.
        """
        device, dtype = checked_place(device, dtype)
        self.autoencoder.to(device=device, dtype=dtype)
        self.model.to(device=device)
        self.model.denoiser.to(dtype=dtype)
        return self

    def compile(self) -> Self:
        """Compiles the denoiser's blocks with ``torch.compile``, one compilation for all of them, at the first call.

        The precisions tf32 and fp8 run uncompiled all the same.

        It is for a GPU. On a CPU it says that nothing changes: there the engine replaces the products by prepared
        ones, which a compiler does not see.
        """
        if self.device.type == "cpu":
            logger.warning(
                "compile() changes nothing on a CPU, where the engine prepares the products itself"
            )
            return self
        compile_regions(self.model.denoiser)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.latent_mean.device

    def default_guidance(self) -> float:
        """The published guidance scale: 2 with a source text, else 1 (none)."""
        return SEQ2SEQ_GUIDANCE if self.model.is_seq2seq else 1.0
