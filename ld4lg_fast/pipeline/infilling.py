"""Infilling: the decoder of a language autoencoder fills a gap between given words.

Letters: B latents, N latent positions, d latent width, W language model width, G tokens of a gap at most.
"""

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data.tokenization import encoding
from ld4lg_fast.decoding.reranking import model_scores
from ld4lg_fast.errors import ConfigError


def split_at_gap(text: str, gap: str) -> tuple[str, str]:
    """The text before the gap and the text after it.

    Raises:
        ConfigError: the text does not have exactly one gap, or nothing else.
    """
    count = text.count(gap) if gap else 0
    if count != 1:
        raise ConfigError(f"The text {text!r} has {count} gaps {gap!r}; it must have exactly one.")
    before, after = text.split(gap)
    if not before.strip() and not after.strip():
        raise ConfigError(f"The text {text!r} is nothing but a gap; sample without one, or keep some words.")
    return before, after


@torch.no_grad()
def fill_gap(
    autoencoder: LanguageAutoencoder,
    latents: Tensor,
    before: str,
    after: str,
    max_tokens: int,
    batch_size: int = 64,
) -> tuple[list[str], Tensor]:
    """The most probable words of the gap for each of the latents (B, N, d).

    The decoder is forced to ``before``, continues greedily for 1 … ``max_tokens`` tokens, and is forced to ``after``;
    the number of tokens with the highest log-probability of the whole text is kept.

    Returns:
        The words of the gap, B of them; the mean log-probability per token of the whole text, kept words included,
        (B,) float32, which is low if the latents do not fit the kept words.

    Raises:
        ConfigError: the kept words leave no room for a gap, or latents that are not finite.
        DataError: the tokenizer cannot encode the kept words.
    """
    autoencoder.check_latents(latents)
    tokenizer, lm = autoencoder.tokenizer, autoencoder.lm
    # White space is tokenized with the word after it, as in a whole text.
    with encoding((before, after)):
        parts = [tokenizer(words, add_special_tokens=False)["input_ids"] for words in (before, after)]
        opening = [token for token in tokenizer("")["input_ids"] if token != tokenizer.eos_token_id]
    head = [lm.config.decoder_start_token_id, *opening, *parts[0]]
    tail = [*parts[1], tokenizer.eos_token_id]
    room = autoencoder.max_len + 1 - len(head) - len(tail)
    if room < 1:
        raise ConfigError(
            f"The kept words are {len(parts[0]) + len(parts[1])} tokens; with the gap this model handles "
            f"{autoencoder.max_len - len(opening) - 1}: keep fewer words."
        )
    count = min(room, max_tokens)
    words, scores = [], []
    for part in latents.split(batch_size):
        states = autoencoder.readable_states(part)
        first, last = (torch.tensor(ids, device=part.device).expand(len(part), -1) for ids in (head, tail))
        gaps = _continued(autoencoder, states, first, count)
        whole = [torch.cat([first, gaps[:, : 1 + extra], last], dim=1) for extra in range(count)]
        best = torch.stack([model_scores(lm, states, ids, None) for ids in whole]).max(dim=0)
        rows = zip(gaps.tolist(), best.indices.tolist(), strict=True)
        words += autoencoder.decode_text([row[: 1 + extra] for row, extra in rows])
        scores.append(best.values)
    return words, torch.cat(scores)


def _continued(autoencoder: LanguageAutoencoder, states: Tensor, head: Tensor, count: int) -> Tensor:
    """``count`` tokens (B, G) after ``head``, decoded greedily without special tokens."""
    special = torch.tensor(autoencoder.tokenizer.all_special_ids, device=states.device)
    ids = head
    for _ in range(count):
        encoded = BaseModelOutput(last_hidden_state=states)
        logits = autoencoder.lm(encoder_outputs=encoded, decoder_input_ids=ids, use_cache=False).logits[:, -1]
        ids = torch.cat([ids, logits.index_fill(1, special, -torch.inf).argmax(-1, keepdim=True)], dim=1)
    return ids[:, head.shape[1] :]
