"""Fast sampling: batches, one run of a sampler, CUDA graphs, precisions, packed weights, regional compilation.

Imports diffusion, models, options and kernels.
"""
