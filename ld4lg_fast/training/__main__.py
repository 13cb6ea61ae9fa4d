"""``python -m ld4lg_fast.training`` is ``scripts/train.py`` without a checkout."""

from ld4lg_fast.training import main

if __name__ == "__main__":
    main()
