"""`Rules`: special tokens, lengths and penalties of decoding, read from transformers' generation options.

Letters: R rows (sentences times beams), T tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import ops

# Options that `Rules` applies, that `generate_ids` has already applied, or that change no token here.
_SUPPORTED = {
    *("max_length", "min_length", "num_beams", "length_penalty", "early_stopping", "repetition_penalty"),
    *("no_repeat_ngram_size", "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"),
    *("forced_bos_token_id", "forced_eos_token_id"),
    *("do_sample", "temperature", "top_k", "top_p", "max_new_tokens"),
    *("use_cache", "cache_implementation", "disable_compile", "transformers_version", "_from_model_config"),
}
_NEUTRAL = {
    "num_return_sequences": 1,
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "guidance_scale": 1,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}


class UnsupportedError(Exception):
    """The fast decoder does not support an option or a model, which the message names."""


@dataclass(frozen=True)
class Rules:
    """Decoding rules as tensors on the device, so that no step synchronizes with the host.

    Attributes:
        eos: (E,) int64 tokens that end a text. fill: what follows the end in a beam search's result.
        forced: (max_length,) int64, the token forced after that many tokens, or -1.
        length_norm: (max_length + 1,) float32, the divisor of a beam's score by number of new tokens.
    """

    max_length: int
    min_length: int
    num_beams: int
    repetition_penalty: float
    no_repeat_ngram_size: int
    early_stopping: bool | str
    length_penalty: float
    start: int
    pad: int
    fill: int
    eos: Tensor
    forced: Tensor
    length_norm: Tensor

    @classmethod
    def read(
        cls, options: GenerationConfig, vocabulary: int, device: torch.device, num_prefix: int = 0
    ) -> "Rules":
        """The rules that ``generate`` would apply under ``options``, for a model with ``vocabulary`` tokens.

        ``num_prefix``: tokens that the decoder reads after the start token, before the first that it writes.

        Raises:
            ConfigError: a token id that the vocabulary does not have.
            UnsupportedError: an option that only ``generate`` supports.
        """
        for name, value in options.to_diff_dict().items():
            neutral = value is None or value is False or (value is not True and value == _NEUTRAL.get(name))
            if name not in _SUPPORTED and not neutral:
                raise UnsupportedError(f"the option {name}={value!r}")
        start = options.decoder_start_token_id
        start = options.bos_token_id if start is None else start
        eos = [options.eos_token_id] if isinstance(options.eos_token_id, int) else options.eos_token_id
        if start is None:
            raise ConfigError(
                "The language model's generation config has neither decoder_start_token_id nor bos_token_id, so no "
                "text can begin; add one of them to its generation_config.json."
            )
        if not isinstance(start, int) or not eos:
            raise UnsupportedError(f"decoder_start_token_id={start!r} with eos_token_id={eos!r}")
        pad = eos[0] if options.pad_token_id is None else options.pad_token_id
        forced = _forced(options)
        for name, ids in (
            ("decoder_start_token_id", [start]),
            ("eos_token_id", eos),
            ("pad_token_id", [pad]),
        ) + (("forced_bos_token_id or forced_eos_token_id", forced[forced != -1].tolist()),):
            if not all(isinstance(token, int) and 0 <= token < vocabulary for token in ids):
                raise ConfigError(f"The option {name} has {ids}; token ids are 0 to {vocabulary - 1}.")
        length_penalty = 1.0 if options.length_penalty is None else options.length_penalty
        lengths = [max(1, count - num_prefix) ** length_penalty for count in range(options.max_length + 1)]
        return cls(
            max_length=options.max_length,
            min_length=options.min_length,
            num_beams=options.num_beams,
            repetition_penalty=float(options.repetition_penalty),
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            early_stopping=options.early_stopping or False,
            length_penalty=length_penalty,
            start=start,
            pad=pad,
            fill=pad or eos[0],  # transformers treats a padding token of 0 as none
            eos=torch.tensor(eos, device=device),
            forced=forced.to(device),
            length_norm=torch.tensor(lengths, dtype=torch.float32, device=device),
        )

    def best(
        self, logits: Tensor, ids: Tensor, length: Tensor, count: int, normalize: bool
    ) -> tuple[Tensor, Tensor]:
        """The best scores of the next token, (R, count) float32, from logits (R, V); see `ops.logits_best`."""
        return ops.logits_best(logits, ids, length, **self._arguments(), normalize=normalize, count=count)

    def draw(self, logits: Tensor, ids: Tensor, length: Tensor, uniforms: Tensor, **limits: Any) -> Tensor:
        """The next token (R,), sampled; ``limits`` are temperature, top_k and top_p; see `ops.logits_draw`."""
        return ops.logits_draw(logits, ids, length, **self._arguments(), uniforms=uniforms, **limits)

    def _arguments(self) -> dict[str, Any]:
        return {
            "eos": self.eos,
            "forced": self.forced,
            "min_length": self.min_length,
            "repetition_penalty": self.repetition_penalty,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
        }

    def ends(self, tokens: Tensor) -> Tensor:
        """Which of the tokens end a text; bool, of the same shape."""
        return (tokens[..., None] == self.eos).any(-1)


def _forced(options: GenerationConfig) -> Tensor:
    forced = torch.full((options.max_length,), -1)
    for name, length in (("forced_bos_token_id", 1), ("forced_eos_token_id", options.max_length - 1)):
        token = getattr(options, name)
        if isinstance(token, list) and len(token) == 1:
            token = token[0]
        if isinstance(token, list):
            raise UnsupportedError(f"the option {name}={token!r}")
        if token is not None:
            forced[length] = token
    return forced
