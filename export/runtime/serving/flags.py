"""Flags of the servers' commands: rules and help. Needs no packages."""

from collections.abc import Mapping

from ..errors import RuntimeInputError
from ..option_checks import Number, Rule, WholeNumber, complaint

RULES: Mapping[str, Rule] = {
    "port": WholeNumber(0, 65535),
    "max_samples": WholeNumber(1, 10_000),
    "max_steps": WholeNumber(1, 1000),  # as the engine
    "max_running": WholeNumber(1, 1024),
    "max_waiting": WholeNumber(1, 1_000_000),
    "max_body": WholeNumber(1, 2**30),
    "max_seconds": Number(0, 86_400, above=True),
}
HELP = {
    "host": "Address to listen at; 0.0.0.0 is every one.",
    "port": "0 takes a free one and prints it.",
    "api_key_env": "Environment variable with the key that clients must send.",
    "max_samples": "Most texts of a request.",
    "max_steps": "Most sampling steps of a text.",
    "max_running": "Most texts that are denoised at the same time.",
    "max_waiting": "Most texts that wait to be; further requests are told to come again later.",
    "max_body": "Most bytes of a request's body.",
    "max_seconds": "Most seconds from a request to its last text.",
}


def check_flags(values: Mapping[str, object]) -> None:
    """Refuses values by the names of their flags.

    Raises:
        RuntimeInputError: one is out of range.
    """
    for name, value in values.items():
        if sentence := complaint(f"--{name.replace('_', '-')}", value, RULES[name]):
            raise RuntimeInputError(sentence)


def read_key(variable: str | None, environment: Mapping[str, str]) -> str | None:
    """The key in an environment variable; None without a variable.

    Raises:
        RuntimeInputError: the variable has no key that a header can carry.
    """
    if variable is None:
        return None
    key = environment.get(variable, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise RuntimeInputError(
            f"--api-key-env is {variable}, but this environment variable has no key of ASCII characters without "
            "spaces; set it, or name another one."
        )
    return key
