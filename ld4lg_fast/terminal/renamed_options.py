"""Command lines with old names of options, which are taken for one version and said on stderr."""

import os
import sys
from collections.abc import Sequence

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.renamed import current_words, given_twice, renamed_words
from ld4lg_fast.export.runtime.text_display import displayed


def with_current_names(words: Sequence[str]) -> list[str]:
    """The command line with today's names; says on stderr, in the first process of a launch, what is old.

    Raises:
        ConfigError: an option is given by its old and by its new name.
    """
    if sentence := given_twice(words):
        raise ConfigError(sentence)
    if int(os.environ.get("RANK", 0)) == 0:
        for sentence in renamed_words(words):
            print(displayed(sentence), file=sys.stderr)
    return current_words(words)
