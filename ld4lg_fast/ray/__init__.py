"""Sampling and encoding on many machines, as stages of Ray Data; results do not depend on the number of workers.

Imports training, and the rooms below it. Ray itself is the package of that name (the extra ``ray``).
"""

from ld4lg_fast.ray.encoding import encode_corpus
from ld4lg_fast.ray.sampling import TextDiffusion, sample

__all__ = ["TextDiffusion", "encode_corpus", "sample"]
