"""Trains a latent diffusion language model: the autoencoder, then the denoiser.

python scripts/train.py dataset=demo model=tiny
"""

from ld4lg_fast.training import main

if __name__ == "__main__":
    main()
