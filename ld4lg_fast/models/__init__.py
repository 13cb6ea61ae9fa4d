"""Neural networks: transformer layers, denoisers, Perceiver, language-model attention, published parameter names.

Imports kernels and errors.
"""
