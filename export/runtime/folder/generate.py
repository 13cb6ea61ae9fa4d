"""Samples texts from this folder: python generate.py --num-samples 8 --seed 1 --json texts.json

Needs the packages onnxruntime (or onnxruntime-gpu), tokenizers and numpy.
"""

from pathlib import Path

from ld4lg_runtime.command import main

if __name__ == "__main__":
    main(Path(__file__).parent)
