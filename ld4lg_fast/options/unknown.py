"""What is said of an option that does not exist; the standard library alone."""

import difflib
from collections.abc import Iterable


def unknown_option(name: str, known: Iterable[str]) -> str:
    """The sentence that refuses an option; ``known`` are those that its section, or the command, has."""
    section, _, last = name.rpartition(".")
    known = list(known)
    close = difflib.get_close_matches(last, known, n=1)
    hint = f" (did you mean {'.'.join(filter(None, (section, *close)))}?)" if close else ""
    return f"There is no option {name}{hint}; {section or 'the command'} has {', '.join(known)}."
