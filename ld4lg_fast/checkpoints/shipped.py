"""Models that ship with the package: run directories in half precision with model cards."""

from pathlib import Path

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.options.checks import checked_path

FOLDER = Path(__file__).parents[1] / "shipped_models"
DEFAULT = "e2e-small"


def shipped_models() -> list[str]:
    """Names of the models, which `TextDiffusionPipeline.from_pretrained` takes instead of a run directory."""
    return sorted(path.parent.name for path in FOLDER.glob("*/statistics.json"))


def run_directory(name: Path | str | None) -> Path:
    """The run directory of ``name``: the default model (None), one of `shipped_models`, or a folder.

    A user's run takes precedence over a shipped model of the same name; another folder does not.

    Raises:
        CheckpointError: ``name`` is None, and no model ships with this package.
        ConfigError: ``name`` is no valid path.
    """
    if name is None:
        if DEFAULT not in shipped_models():
            raise CheckpointError(
                "No model came with this package; name the run directory of a finished training, or see one trained "
                "with `ld4lg demo`."
            )
        return FOLDER / DEFAULT
    folder = checked_path("The run directory", name)
    is_own_run = (folder / "autoencoder").exists()
    return FOLDER / name if not is_own_run and str(name) in shipped_models() else folder


def results_folder(name: Path | str) -> Path:
    """Folder for results of a model: its own, or one in ``outputs`` for shipped models and those of the hub."""
    folder = Path(name)
    return folder if folder.is_dir() else Path("outputs") / str(name).replace("/", "--")
