"""Samples texts from a run directory into a JSON file.

python scripts/infer.py infer.output_dir=outputs/demo generation.num_samples=16
"""

from ld4lg_fast.cli.infer import main

if __name__ == "__main__":
    main()
