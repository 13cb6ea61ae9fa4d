"""Samples texts from this folder: python generate.py --num-samples 8 --seed 1 --json texts.json

Needs the packages onnxruntime (or onnxruntime-gpu), tokenizers and numpy.
"""

import sys
from pathlib import Path

try:
    from ld4lg_runtime.command import main
except Exception as error:
    said = f"ld4lg_runtime is damaged ({error}); copy the folder again"
    if (name := getattr(error, "name", None)) and not name.startswith("ld4lg_runtime"):
        said = f"the package {name} cannot be imported ({error}): pip install onnxruntime tokenizers numpy"
    print(f"error: {said}.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main(Path(__file__).parent)
