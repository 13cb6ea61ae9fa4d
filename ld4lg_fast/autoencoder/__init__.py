"""The language autoencoder: text to latents and back, and the augmentation of latents in training.

Imports decoding, engine, models and checkpoints.
"""
