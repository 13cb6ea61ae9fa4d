"""Run directories on disk, read as untrusted input: size limits, schemas, strict weights, fingerprints, locks.

Also the Hugging Face hub and the models that ship. Imports options and errors; it does not know the pipeline.
"""
