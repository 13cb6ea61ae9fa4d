"""One text out of several decodes of the same latent: by the model's own score, or by minimum Bayes risk.

Letters: B batch, N latents, W language model width, T tokens.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.decoding.candidates import get_similarity, minimum_bayes_risk


def model_scores(lm: PreTrainedModel, states: Tensor, ids: Tensor, mask: Tensor | None) -> Tensor:
    """(B,) float32: mean log-probability of the tokens (B, T) after the first, to the first end, given the states.

    Args:
        states: (B, N, W) encoder states, mask (B, N) or None for all.
    """
    logits = lm(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=None if mask is None else mask.long(),
        decoder_input_ids=ids[:, :-1],
        use_cache=False,
    ).logits
    targets = ids[:, 1:]
    scores = logits.float().log_softmax(-1).gather(2, targets[:, :, None]).squeeze(2)
    ends = torch.isin(targets, torch.tensor(lm.generation_config.eos_token_id, device=ids.device)).int()
    kept = ends.cumsum(1) - ends == 0
    return (scores * kept).sum(1) / kept.sum(1)


def choose_by_score(
    lm: PreTrainedModel, states: Tensor, decodes: list[Tensor], mask: Tensor | None
) -> list[int]:
    """For each of B latents, which of its decodes (B, T) the model finds most probable a token."""
    scores = torch.stack([model_scores(lm, states, ids, mask) for ids in decodes])
    return scores.argmax(0).tolist()


def choose_by_risk(decodes: list[list[str]], similarity: str) -> list[int]:
    """For each latent, which of its decodes is most like the others; ``decodes`` lists the texts of each decode."""
    measure = get_similarity(similarity)
    return [minimum_bayes_risk(texts, measure) for texts in zip(*decodes, strict=True)]
