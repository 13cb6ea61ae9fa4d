"""Checks of option values: one rule for every option of a call, a config group and a command line.

Imports errors.
"""
