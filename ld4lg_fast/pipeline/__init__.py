"""`TextDiffusionPipeline`: sampling with conditions, presets and guides; variation, interpolation, infilling of texts.

Imports autoencoder, data, and the rooms below them.
"""
