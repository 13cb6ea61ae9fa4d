"""The models that come with the package: run directories in half precision, each with its model card."""

from pathlib import Path

from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.options.checks import checked_path

FOLDER = Path(__file__).parents[1] / "shipped_models"
DEFAULT = "e2e-small"


def shipped_models() -> list[str]:
    """Names that `TextDiffusionPipeline.from_pretrained` takes in place of a run directory."""
    return sorted(path.parent.name for path in FOLDER.glob("*/statistics.json"))


def run_directory(name: Path | str | None) -> Path:
    """The run directory that ``name`` means: the model that ships (None), one of `shipped_models`, or a folder.

    A run of the user's own comes before a model of the same name; another folder of that name does not.

    Raises:
        CheckpointError: None, and no model came with this package.
        ConfigError: something else, or a name that no file system takes.
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
    """Where what is made from a model is kept: in its folder, or in ``outputs`` if it ships or is one of the hub's."""
    folder = Path(name)
    return folder if folder.is_dir() else Path("outputs") / str(name).replace("/", "--")
