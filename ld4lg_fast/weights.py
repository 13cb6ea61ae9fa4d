"""Names of `ld4lg_fast.checkpoints` for the modules that read and write weights."""

from ld4lg_fast.checkpoints.files import read_json, write_atomically, write_json, writing
from ld4lg_fast.checkpoints.tensors import load_weights, save_weights

__all__ = ["load_weights", "read_json", "save_weights", "write_atomically", "write_json", "writing"]
