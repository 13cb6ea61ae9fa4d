"""`LanguageModel`: runs the decoder graphs on a batch of latents, one token for each beam at a time.

Letters: S sentences, W beams, T cached tokens, N latent positions, H heads, K head width, V vocabulary.
"""

import numpy as np
import onnxruntime as ort

from .errors import RuntimeInputError
from .session import Session

SPAN = 16  # tokens by which the caches grow; between, they are written in place


class LanguageModel:
    """Decoder with key-value caches on the device. A beam's past is a mask over the cache of all beams of its sentence,
    so choosing beams moves no key."""

    def __init__(
        self,
        latents_graph: Session,
        step_graph: Session,
        cache_graph: Session,
        latents: np.ndarray,
        mask: np.ndarray | None,
        beams: int,
    ) -> None:
        self._step, self._grow = step_graph, cache_graph
        self._kept = latents_graph.run({"latents": latents})
        self._past = {
            name.replace("cross", "past"): cache_graph.empty_cache(value, beams)
            for name, value in self._kept.items()
        }
        if mask is not None:
            self._kept["mask"] = step_graph.place(mask)
        self._own = np.full((len(latents), beams, 0, beams), -np.inf, np.float32)
        self._position = 0

    def is_full(self) -> bool:
        """Whether `grow` must be called before the next step."""
        return self._position == self._own.shape[2]

    def grow(self, sentences: np.ndarray) -> None:
        """Makes room for `SPAN` more tokens and keeps only ``sentences``."""
        outputs = self._grow.run({"sentences": sentences} | self._past | self._kept)
        for caches in (self._past, self._kept):
            caches.update({name: outputs[f"next.{name}"] for name in caches})
        self._own = np.pad(self._own[sentences], ((0, 0), (0, 0), (0, SPAN), (0, 0)), constant_values=-np.inf)

    def step(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (S, W, V) of the token after ``tokens`` (S, W).

        Raises:
            RuntimeInputError: they are not finite, as with damaged weights.
        """
        beams = np.arange(tokens.shape[1])
        self._own[:, beams, self._position, beams] = 0.0
        feeds = {
            "tokens": tokens,
            "position": np.array([self._position]),
            "bias": self._own.reshape(*tokens.shape, -1),
        }
        in_place: dict[str, ort.OrtValue] = {
            name.replace("past", "present"): value for name, value in self._past.items()
        }
        host = {"logits": (*tokens.shape, self._step.output_signature["logits"][1][-1])}
        outputs = self._step.run(feeds | self._past | self._kept, host, in_place)
        self._position += 1
        logits = outputs["logits"].numpy()
        if not np.isfinite(logits.max()):  # NaN if any logit is NaN
            raise RuntimeInputError(
                f"{self._step.path} gives logits that are not finite: its weights are damaged, or exceed their "
                "precision; export it again, in float32."
            )
        return logits

    def choose(self, parents: np.ndarray) -> None:
        """Beam w of each sentence goes on from beam ``parents[:, w]`` (S, W)."""
        self._own = np.take_along_axis(self._own, parents[:, :, None, None], axis=1)
