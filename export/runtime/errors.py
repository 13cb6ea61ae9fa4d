"""The one error of this runtime."""


class RuntimeInputError(ValueError):
    """A folder, an installation or an option that cannot work; one sentence that names it and the remedy."""
