"""Errors that a user can mend. Each message is one sentence that names the value and the remedy."""


class LD4LGError(Exception):
    """Base of all errors that the entry points print as one sentence, with exit code 2."""


class ConfigError(LD4LGError):
    """An option has a value that cannot work, alone or together with another."""


class DataError(LD4LGError):
    """A corpus, file or column is missing or has the wrong form."""


class CheckpointError(LD4LGError):
    """A run directory or checkpoint is missing, broken, or belongs to another model."""
