"""The command `ld4lg` and the sampling command behind `scripts/infer.py`.

Imports every other room.
"""
