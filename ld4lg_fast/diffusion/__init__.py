"""The diffusion process: noise schedules, z_t, predictions and loss, samplers, and the model that has a denoiser in it.

Imports models and checkpoints.
"""
