"""Which weights of a run are evaluated: the finished model, or the averaged ones of a checkpoint."""

from pathlib import Path

from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.tensors import load_weights
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.checkpoint import CheckpointStore

WEIGHTS = "ema.safetensors"


def find_checkpoint(run_dir: Path, given: Path | str) -> Path:
    """The folder of a checkpoint of the diffusion stage.

    ``given`` is the folder or a file in it, relative to the run directory or to here, or absolute.

    Raises:
        CheckpointError: there is none; the message lists those that exist.
    """
    given = Path(given)
    for path in (run_dir / given, given):
        folder = path.parent if path.is_file() else path
        if (folder / WEIGHTS).exists():
            return folder
    store = CheckpointStore(RunDirectory(run_dir).checkpoints("diffusion"))
    known = ", ".join(str(store.path(step).relative_to(run_dir)) for step in store.steps())
    found = any(path.exists() for path in (run_dir / given, given))
    trouble = f"holds no averaged denoiser ({WEIGHTS})" if found else "does not exist"
    remedy = f"this run has {known}" if known else "this run has no checkpoints of a denoiser: leave it out"
    raise CheckpointError(f"infer.ckpt_path={given} {trouble} in {run_dir}; {remedy}.")


def load_checkpoint(pipe: TextDiffusionPipeline, run_dir: Path, given: Path | str) -> Path:
    """Gives the pipeline a checkpoint's averaged weights, see `find_checkpoint`; returns the folder.

    Raises:
        CheckpointError: the checkpoint does not exist, is damaged, or is of another model.
    """
    checkpoint = find_checkpoint(run_dir, given)
    load_weights(pipe.model, checkpoint / WEIGHTS)
    return checkpoint
