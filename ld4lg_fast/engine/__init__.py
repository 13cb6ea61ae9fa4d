"""Fast sampling: batches, runs, a running batch, CUDA graphs, precisions, packed weights, regional compilation.

Imports diffusion, models, options and kernels.
"""
