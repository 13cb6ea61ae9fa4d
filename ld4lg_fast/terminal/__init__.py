"""Terminal input and output: console, progress bars, and arguments, help and entry point of Hydra commands.

Imports errors and options.
"""
