"""Writes samples/stored.json of the models that ship, which `ld4lg verify NAME --samples` repeats.

python scripts/store_samples.py [NAME …]
"""

import sys

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints.run_directory import RunDirectory
from ld4lg_fast.checkpoints.shipped import run_directory, shipped_models
from ld4lg_fast.training.stored_samples import store_samples

if __name__ == "__main__":
    for name in sys.argv[1:] or shipped_models():
        store_samples(
            TextDiffusionPipeline.from_pretrained(name), RunDirectory(run_directory(name)).stored_samples
        )
