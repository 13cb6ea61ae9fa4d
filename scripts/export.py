"""Turns a run into a folder of ONNX graphs that samples without PyTorch.

python scripts/export.py RUN_DIR OUT_DIR --precision int8
"""

import sys

from ld4lg_fast.cli.main import main

if __name__ == "__main__":
    sys.argv.insert(1, "export")
    main()
