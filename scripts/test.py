"""Samples from a run directory and measures the texts: MAUVE, perplexity, diversity, memorization, ...

accelerate launch scripts/test.py infer.output_dir=outputs/e2e
"""

from ld4lg_fast.evaluation import main

if __name__ == "__main__":
    main()
