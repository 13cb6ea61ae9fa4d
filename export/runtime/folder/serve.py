"""Serves this folder's model over HTTP: python serve.py --port 8000

Needs the packages onnxruntime (or onnxruntime-gpu), tokenizers, numpy, fastapi, uvicorn and prometheus-client.
"""

import sys
from pathlib import Path

try:
    from ld4lg_runtime.serving.command import main
except Exception as error:
    said = f"ld4lg_runtime is damaged ({error}); copy the folder again"
    if (name := getattr(error, "name", None)) and not name.startswith("ld4lg_runtime"):
        packages = "onnxruntime tokenizers numpy fastapi uvicorn prometheus-client"
        said = f"the package {name} cannot be imported ({error}): pip install {packages}"
    print(f"error: {said}.", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    main(Path(__file__).parent)
