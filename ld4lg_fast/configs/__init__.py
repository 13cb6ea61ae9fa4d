"""Hydra config groups; a package, so that they are found wherever the library is installed."""
