"""The runtime's exception."""


class RuntimeInputError(ValueError):
    """An invalid folder, installation or option; the message is one sentence with the remedy."""
