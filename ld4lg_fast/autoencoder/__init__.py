"""The language autoencoder: text to latents and back, and how latents are augmented in training.

Imports decoding, engine, models and checkpoints.
"""
