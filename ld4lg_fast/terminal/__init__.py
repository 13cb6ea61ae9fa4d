"""What people see and type: the console, progress bars, the entry point and the help of Hydra commands.

Imports errors and options.
"""
