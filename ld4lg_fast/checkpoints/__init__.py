"""Run directories on disk, read without trusting them: bounded files, schemas, strict weights, fingerprints.

May import errors and the kernels; knows no network and no pipeline.
"""
