"""Run directories on disk, read without trusting them: bounded files, schemas, strict weights, fingerprints.

Imports errors; knows no network and no pipeline.
"""
