"""`PipelineBase`: the parts of a pipeline (autoencoder, denoiser, statistics, decoding), loaded, saved and moved."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints import fingerprint, hub
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.shipped import run_directory
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine.precision import check_deterministic
from ld4lg_fast.engine.regional_compile import compile_regions
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import Switch, Text
from ld4lg_fast.export.runtime.text_display import get_logger
from ld4lg_fast.models.attention_backends import check_attn_implementation, set_attn_implementation
from ld4lg_fast.models.language_models import cast_weights
from ld4lg_fast.models.lm_attention import set_attention
from ld4lg_fast.options.checks import check, checked_path, checked_place
from ld4lg_fast.pipeline.sources import check_source_length
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.pipeline.text_guide import FOLDER as GUIDES
from ld4lg_fast.pipeline.text_guide import TextGuide, load_guides, save_guides
from ld4lg_fast.terminal.hydra_arguments import override, shell_command

CONTEXT_GUIDANCE = 2.0  # by a source text, as published; by the text so far it keeps most facts

logger = get_logger("ld4lg_fast")


class PipelineBase:
    """The part of `TextDiffusionPipeline` that loads, saves, moves and compiles its models."""

    def __init__(
        self,
        autoencoder: LanguageAutoencoder,
        model: LatentDiffusion,
        statistics: RunStatistics | None = None,
        decoding: DecodingConfig | None = None,
        guides: Mapping[str, TextGuide] | None = None,
    ) -> None:
        model.check_latents_of(autoencoder.num_latents, autoencoder.dim_latent)
        check_source_length(autoencoder, model)
        self.autoencoder, self.model = autoencoder.eval(), model.eval()
        self.decoding = decoding or DecodingConfig()
        self.text_guides = dict(guides or {})
        known = statistics or RunStatistics()
        self.statistics = known.of_classes(model.denoiser.config.num_classes).of_lengths(autoencoder.max_len)

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub: Path | str | None = None,
        revision: str | None = None,
        attn_implementation: str = "auto",
        trust_remote_code: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Loads a run directory, a shipped model by its name, or a repository ``owner/name`` of the hub.

        Args:
            path_or_hub: looked up as a run directory, then as a shipped model (see `shipped.shipped_models`), then on
                the hub. None is the shipped model.
            revision: branch, tag or commit of the repository.
            attn_implementation: see `set_attention`.
            trust_remote_code: whether a language model that the run only names may run Python code of its own.
            dtype: of the networks, to which the language model is converted as it is read; None: float32.

        Raises:
            CheckpointError: the folder or repository does not exist, is not a run, or has no trained denoiser.
            ConfigError: ``path_or_hub`` is no path, ``revision`` no text, ``dtype`` not floating-point, or an
                ``attn_implementation`` that cannot run on this machine.
        """
        check_attn_implementation(attn_implementation)
        check("trust_remote_code", trust_remote_code, Switch())
        _, dtype = checked_place(None, dtype)
        if revision is not None:
            check("revision", revision, Text())
        run_dir = run_directory(path_or_hub)
        if not run_dir.is_dir() and hub.looks_like_hub_name(str(path_or_hub)):
            run_dir = hub.download(str(path_or_hub), revision)
        if not run_dir.is_dir():
            raise CheckpointError(f"The run directory {run_dir} does not exist; train one with ld4lg train.")
        if not (run_dir / "autoencoder" / "autoencoder.json").exists():
            raise CheckpointError(
                f"{run_dir} is not a finished run: it has no autoencoder; train it with: "
                + shell_command("ld4lg", "train", override("hydra.run.dir", run_dir))
            )
        if not (run_dir / "denoiser" / "config.json").exists():
            raise CheckpointError(
                f"{run_dir} has an autoencoder but no denoiser yet; train it with: "
                + shell_command("ld4lg", "train", "train.stage=diffusion", override("hydra.run.dir", run_dir))
            )
        fingerprint.check(run_dir)
        autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder", trust_remote_code, dtype)
        model = LatentDiffusion.load(run_dir / "denoiser")
        guides = load_guides(run_dir / GUIDES, autoencoder)
        pipe = cls(autoencoder, model, RunStatistics.load(run_dir), DecodingConfig.load(run_dir), guides)
        pipe.model.denoiser.to(dtype=dtype)
        return pipe.set_attention(attn_implementation)

    def save_pretrained(self, directory: Path | str) -> None:
        """Writes a folder that `from_pretrained` reads.

        Raises:
            CheckpointError: it cannot be written to.
            ConfigError: not a path, another process is writing to it, or ``decoding`` has more beams or decodes than
                a file may have.
        """
        directory = checked_path("directory", directory)
        self.decoding.check_storable()
        with RunLock(directory), fingerprint.renewed(directory):
            self.autoencoder.save(directory / "autoencoder")
            self.model.save(directory / "denoiser")
            self.statistics.save(directory)
            self.decoding.save(directory)
            save_guides(self.text_guides, directory / GUIDES)

    def to(
        self, device: torch.device | str | torch.dtype | None = None, dtype: torch.dtype | None = None
    ) -> Self:
        """Moves both models: ``to("cuda", torch.bfloat16)`` or ``to(torch.bfloat16)``.

        ``dtype`` is that of the networks; latents and schedules stay float32.

        Raises:
            ConfigError: a device that is not available, or a dtype that is not floating-point.
        """
        device, dtype = checked_place(device, dtype)
        self.autoencoder.to(device=device)
        cast_weights(self.autoencoder.lm, dtype)
        if self.autoencoder.perceiver is not None:
            self.autoencoder.perceiver.to(dtype=dtype)
        self.model.to(device=device)
        self.model.denoiser.to(dtype=dtype)
        return self

    def set_attention(self, attn_implementation: str) -> Self:
        """Chooses the attention backend of the denoiser, the Perceiver and the language model.

        Args:
            attn_implementation: ``auto``, ``sdpa``, ``flash_attn`` or ``short_attention``, see
                `models.attention_backends`. FlashAttention needs a GPU and bfloat16 or float16; with it, recipe v1
                computes nothing for padding.

        Raises:
            ConfigError: an unknown name, or a backend that cannot run on this machine or for this model.
        """
        check_attn_implementation(attn_implementation)
        set_attention(self.autoencoder, attn_implementation)
        set_attn_implementation(self.model, attn_implementation)
        return self

    def set_deterministic(self, deterministic: bool = True) -> Self:
        """Whether a text is the same, bit by bit, in every batch: alone, beside any other and in any process.

        In the precisions fp32, bf16 and int8 on a CPU, with weights in fp32. Matmuls then run in kernels whose rows do
        not depend on each other; sources, prompts and latents are encoded one by one. Call it before a `RequestEngine`
        is made.

        Raises:
            ConfigError: a GPU, weights in another precision, or no C++ kernels.
        """
        check("deterministic", deterministic)
        if deterministic:
            check_deterministic(None, self.model.denoiser.input_proj.weight.dtype, self.device)
        self.model.deterministic = self.autoencoder.deterministic = deterministic
        return self

    def compile(self) -> Self:
        """Compiles the denoiser's blocks with ``torch.compile`` at the first call; one compilation serves all blocks.

        For GPUs; the precisions tf32 and fp8 run uncompiled. On a CPU it logs that nothing changes, as the engine
        replaces the matmuls by kernels with packed weights, which ``torch.compile`` cannot optimize.
        """
        if self.device.type == "cpu":
            logger.warning(
                "compile() changes nothing on a CPU, where the engine packs the weights of matmuls itself"
            )
            return self
        logger.warning(
            "the first call compiles the denoiser's blocks, which takes from half a minute to some minutes"
        )
        compile_regions(self.model.denoiser)
        return self

    @property
    def device(self) -> torch.device:
        return self.model.latent_mean.device

    def default_guidance(self) -> float:
        """2 for a model that attends to a text and was trained to do without it, too; else 1 (no guidance)."""
        model = self.model
        attends = model.is_seq2seq or (
            model.writes_documents and model.recipe.get("context_drop_prob", 0) > 0
        )
        return CONTEXT_GUIDANCE if attends else 1.0
