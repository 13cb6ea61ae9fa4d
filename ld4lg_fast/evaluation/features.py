"""Feature vectors of texts, for MAUVE. Letters: B batch, T tokens, W model width."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ld4lg_fast.data import collate
from ld4lg_fast.evaluation.models import ScoringModel
from ld4lg_fast.evaluation.unavailable import check_known


def over_batches(
    ids: Sequence[list[int]], batch_size: int, device: torch.device, score: Callable[[Tensor, Tensor], Tensor]
) -> np.ndarray:
    """``score(input_ids (B, T), mask (B, T)) -> (B, …)`` over token ids, in the order of ``ids``.

    Batches are sorted by length and padded on the right; scores must not depend on the padding.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    rows: dict[int, np.ndarray] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        input_ids, mask = collate([ids[i] for i in chosen], pad_id=0, multiple_of=1)
        with torch.inference_mode():
            scores = score(input_ids.to(device), mask.to(device)).float().cpu().numpy()
        for index, row in zip(chosen, scores, strict=True):
            rows[index] = row
    return np.stack([rows[index] for index in range(len(ids))])


def tokenize(texts: Sequence[str], scorer: ScoringModel, max_length: int) -> list[list[int]]:
    """Token ids with the tokenizer's special tokens, truncated to the model's maximum length.

    Raises:
        ModelUnavailable: as `check_known`.
    """
    limit = min(max_length, scorer.max_positions)
    ids = [scorer.tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    check_known(ids, scorer.tokenizer)
    return ids


def language_model_features(
    texts: Sequence[str], scorer: ScoringModel, max_length: int = 256, batch_size: int = 32
) -> np.ndarray:
    """(B, W) float32: the last layer's hidden state of each text's last token, as in `mauve-text`."""

    def last_states(input_ids: Tensor, mask: Tensor) -> Tensor:
        output = scorer.model(
            input_ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False
        )
        rows = torch.arange(len(mask), device=mask.device)
        return output.hidden_states[-1][rows, mask.sum(dim=1) - 1]

    return over_batches(tokenize(texts, scorer, max_length), batch_size, scorer.device, last_states)


def sentence_features(
    texts: Sequence[str], scorer: ScoringModel, max_length: int = 256, batch_size: int = 32
) -> np.ndarray:
    """(B, W) float32: mean of the last hidden states over the tokens, normalised to unit length.

    Mean pooling of Sentence-BERT (Reimers & Gurevych 2019), as all-mpnet-base-v2 was trained.
    """

    def means(input_ids: Tensor, mask: Tensor) -> Tensor:
        states = scorer.model(input_ids, attention_mask=mask.long()).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return torch.nn.functional.normalize((states * weights).sum(dim=1) / weights.sum(dim=1), dim=-1)

    return over_batches(tokenize(texts, scorer, max_length), batch_size, scorer.device, means)
