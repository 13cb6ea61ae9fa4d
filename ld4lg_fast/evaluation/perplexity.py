"""Perplexity of texts under a causal language model. Letters: B batch, T tokens."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ld4lg_fast.evaluation.features import over_batches
from ld4lg_fast.evaluation.models import ScoringModel
from ld4lg_fast.evaluation.unavailable import Unavailable, check_known


def text_perplexities(texts: Sequence[str], scorer: ScoringModel, batch_size: int = 32) -> np.ndarray:
    """(B,) float32: exp of each text's mean negative log-likelihood per token.

    As in the perplexity metric of `evaluate`: the start token is prepended, so that the first token counts; no other
    special tokens. The published metric is the mean over the texts, not the perplexity of all tokens together.

    Raises:
        Unavailable: the tokenizer has no start token, or as `check_known`.
    """
    tokenizer = scorer.tokenizer
    start = tokenizer.bos_token_id
    if start is None:
        raise Unavailable(
            f"the tokenizer of {tokenizer.name_or_path} has no start token to score the first token after"
        )
    limit = scorer.max_positions - 1
    ids = [[start, *tokenizer(text, add_special_tokens=False)["input_ids"][:limit]] for text in texts]
    check_known(ids, tokenizer)

    def perplexities(input_ids: Tensor, mask: Tensor) -> Tensor:
        logits = scorer.model(input_ids, attention_mask=mask.long(), use_cache=False).logits[:, :-1].float()
        losses = F.cross_entropy(logits.transpose(1, 2), input_ids[:, 1:], reduction="none")
        real = mask[:, 1:]
        return torch.exp((losses * real).sum(dim=1) / real.sum(dim=1))

    return over_batches(ids, batch_size, scorer.device, perplexities)
