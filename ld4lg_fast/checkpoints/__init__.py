"""Run directories on disk, read as untrusted input: size limits, schemas, strict weights, fingerprints, locks.

Also the Hugging Face hub and the models that ship. Does not know the pipeline.
"""
