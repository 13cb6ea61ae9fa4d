"""Reads checkpoints of the two published systems in the layout of their training code.

`official`: the release of Lovelace et al. 2023. `unofficial`: the reimplementation of its first version.

Imports pipeline and the rooms below it.
"""

from ld4lg_fast.published.model import PublishedModel
from ld4lg_fast.published.official import find_official, read_official
from ld4lg_fast.published.unofficial import find_unofficial, read_unofficial

__all__ = ["PublishedModel", "find_official", "find_unofficial", "read_official", "read_unofficial"]
