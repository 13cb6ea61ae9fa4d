"""From latents to token ids: `generate_ids` decodes encoder states as a `DecodingConfig` says.

Imports engine, checkpoints, options and kernels.
"""

from ld4lg_fast.decoding.config import NO_RULES, STRATEGIES, DecodingConfig
from ld4lg_fast.decoding.generate import generate_ids

__all__ = ["NO_RULES", "STRATEGIES", "DecodingConfig", "generate_ids"]
