"""Loads the EMA of a training checkpoint for evaluation, in place of the finished model."""

from pathlib import Path

from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.tensors import load_weights
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.checkpoint import CheckpointStore

WEIGHTS = "ema.safetensors"


def load_checkpoint(pipe: TextDiffusionPipeline, run_dir: Path, given: Path | str) -> Path:
    """Loads the EMA of a checkpoint of the diffusion stage into the pipeline; returns the checkpoint's folder.

    ``given`` is the folder or a file in it, absolute or relative to the run directory or the current one.

    Raises:
        CheckpointError: it is missing (the message lists the run's checkpoints), damaged, or of another model.
    """
    given = Path(given)
    for path in (run_dir / given, given):
        folder = path.parent if path.is_file() else path
        if (folder / WEIGHTS).exists():
            load_weights(pipe.model, folder / WEIGHTS)
            return folder
    store = CheckpointStore(RunDirectory(run_dir).checkpoints("diffusion"))
    known = ", ".join(str(store.path(step).relative_to(run_dir)) for step in store.steps())
    found = any(path.exists() for path in (run_dir / given, given))
    trouble = f"holds no averaged denoiser ({WEIGHTS})" if found else "does not exist"
    remedy = f"this run has {known}" if known else "this run has no checkpoints of a denoiser: leave it out"
    raise CheckpointError(f"infer.ckpt_path={given} {trouble} in {run_dir}; {remedy}.")
