"""The diffusion process: noise schedules, z_t, predictions and loss, samplers, and the latent diffusion model.

Imports models and checkpoints.
"""
