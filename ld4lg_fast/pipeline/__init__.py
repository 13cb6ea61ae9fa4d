"""`TextDiffusionPipeline`: sampling with conditions, presets and guides; variation, interpolation, infilling of texts.

`RequestEngine`: requests that arrive at any time and share batches.

Imports autoencoder, data, and the rooms below them.
"""
