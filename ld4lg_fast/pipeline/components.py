"""The parts of a pipeline, as a run directory holds them: language autoencoder, denoiser, statistics, decoding."""

from pathlib import Path

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints import fingerprint, hub
from ld4lg_fast.checkpoints.run_lock import RunLock
from ld4lg_fast.checkpoints.shipped import run_directory
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.export.runtime.option_checks import Text
from ld4lg_fast.options.checks import check
from ld4lg_fast.pipeline.statistics import RunStatistics
from ld4lg_fast.terminal.hydra_help import override, shell_command


def load_components(
    path_or_hub: Path | str | None, revision: str | None = None
) -> tuple[LanguageAutoencoder, LatentDiffusion, RunStatistics, DecodingConfig]:
    """Reads a run directory, a model that ships, or a repository of the hub.

    Raises:
        CheckpointError: the folder or repository does not exist, is no run, or has not finished its diffusion stage.
        ConfigError: ``path_or_hub`` is no path, or ``revision`` no text.
    """
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
    autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder")
    model = LatentDiffusion.load(run_dir / "denoiser")
    return autoencoder, model, RunStatistics.load(run_dir), DecodingConfig.load(run_dir)


def save_components(
    directory: Path,
    autoencoder: LanguageAutoencoder,
    model: LatentDiffusion,
    statistics: RunStatistics,
    decoding: DecodingConfig,
) -> None:
    """Writes a folder that `load_components` reads, and its fingerprint.

    Raises:
        CheckpointError: it cannot be written to.
        ConfigError: another process is writing into it, or ``decoding`` asks for more than a file may.
    """
    decoding.check_storable()
    with RunLock(directory), fingerprint.renewed(directory):
        autoencoder.save(directory / "autoencoder")
        model.save(directory / "denoiser")
        statistics.save(directory)
        decoding.save(directory)
