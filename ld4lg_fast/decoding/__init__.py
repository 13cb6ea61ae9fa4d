"""From latents to token ids: `generate_ids` decodes encoder states as a `DecodingConfig` says."""

from ld4lg_fast.decoding.config import STRATEGIES, DecodingConfig
from ld4lg_fast.decoding.generate import generate_ids

__all__ = ["STRATEGIES", "DecodingConfig", "generate_ids"]
