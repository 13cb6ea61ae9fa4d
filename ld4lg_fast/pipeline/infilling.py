"""Infilling: the decoder of a language autoencoder fills the gaps between given words.

Letters: B latents, N latent positions, d latent width, W language model width, G tokens of a gap at most.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data.tokenization import encoding
from ld4lg_fast.decoding.reranking import model_scores
from ld4lg_fast.errors import ConfigError


def split_at_gaps(text: str, gap: str) -> list[str]:
    """The kept words before, between and after the gaps.

    Raises:
        ConfigError: a text without a gap, or of nothing but gaps.
    """
    kept = text.split(gap) if gap else [text]
    if len(kept) == 1:
        raise ConfigError(f"The text {text!r} has no gap {gap!r}; it must have at least one.")
    if not any(map(str.strip, kept)):
        raise ConfigError(f"The text {text!r} is nothing but a gap; sample without one, or keep some words.")
    return kept


def filled(kept: Sequence[str], words: Sequence[str]) -> str:
    """The whole text of kept words and the words of the gaps between them."""
    return "".join(part + word for part, word in zip(kept, [*words, ""], strict=True))


@torch.no_grad()
def fill_gaps(
    autoencoder: LanguageAutoencoder,
    latents: Tensor,
    kept: Sequence[str],
    max_tokens: int,
    prefix: Sequence[int] = (),
    batch_size: int = 64,
) -> tuple[list[list[str]], Tensor]:
    """The most probable words of the gaps for each of the latents (B, N, d).

    The decoder is forced to the kept words before a gap, continues greedily for 1 … ``max_tokens`` tokens, and is
    forced to the kept words after it; the number of tokens with the highest mean log-probability of all these is kept,
    gap by gap.

    Args:
        kept: see `split_at_gaps`.
        prefix: token ids that the decoder reads before the text.

    Returns:
        The words of each gap, B lists of them; the mean log-probability per token of the whole text, kept words
        included, (B,) float32, which is low if the latents do not fit the kept words.

    Raises:
        ConfigError: the kept words leave no room for the gaps, or latents that are not finite.
        DataError: the tokenizer cannot encode the kept words.
    """
    autoencoder.check_latents(latents)
    tokenizer, lm = autoencoder.tokenizer, autoencoder.language_model
    # White space is tokenized with the word after it, as in a whole text.
    words = [*(part.rstrip() for part in kept[:-1]), kept[-1]]
    with encoding(words):
        parts = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in words]
        opening = [token for token in tokenizer("")["input_ids"] if token != tokenizer.eos_token_id]
    count, num_gaps = sum(map(len, parts)), len(parts) - 1
    head = [lm.start, *prefix, *opening, *parts[0]]
    tails = [*parts[1:-1], [*parts[-1], tokenizer.eos_token_id]]
    limit = autoencoder.max_len + 1 + len(prefix)
    if count + len(opening) + len(prefix) + 2 + num_gaps > limit:
        raise ConfigError(
            f"The kept words are {count} tokens; with the gap this model handles "
            f"{autoencoder.max_len - len(opening) - 1}: keep fewer words."
        )
    ids = [list(head) for _ in range(len(latents))]
    gaps: list[list[list[int]]] = [[] for _ in range(len(latents))]
    scores = torch.zeros(len(latents), device=latents.device)
    for place, tail in enumerate(tails):
        later = sum(map(len, tails[place:])) + len(tails[place + 1 :])  # a token for each later gap
        by_length: dict[int, list[int]] = {}
        for row, tokens in enumerate(ids):
            by_length.setdefault(len(tokens), []).append(row)
        for length, rows in by_length.items():
            most = min(limit - length - later, max_tokens)
            for some in (rows[i : i + batch_size] for i in range(0, len(rows), batch_size)):
                states = autoencoder.readable_states(latents[some])
                first = torch.tensor([ids[row] for row in some], device=latents.device)
                found, scores[some] = _filling(autoencoder, states, first, tail, most)
                for row, tokens in zip(some, found, strict=True):
                    gaps[row].append(tokens)
                    ids[row] += [*tokens, *tail]
    decoded = iter(autoencoder.decode_text([tokens for row in gaps for tokens in row]))
    return [[next(decoded) for _ in row] for row in gaps], scores


def _filling(
    autoencoder: LanguageAutoencoder, states: Tensor, head: Tensor, tail: Sequence[int], most: int
) -> tuple[list[list[int]], Tensor]:
    """The best 1 … ``most`` tokens between ``head`` (B, T) and ``tail`` under states (B, N, W), and the scores (B,)."""
    gaps = _continued(autoencoder, states, head, most)
    last = torch.tensor(tail, device=head.device).expand(len(head), -1)
    whole = [torch.cat([head, gaps[:, : 1 + extra], last], dim=1) for extra in range(most)]
    best = torch.stack([model_scores(autoencoder.language_model, states, ids, None) for ids in whole]).max(
        dim=0
    )
    rows = zip(gaps.tolist(), best.indices.tolist(), strict=True)
    return [row[: 1 + extra] for row, extra in rows], best.values


def _continued(autoencoder: LanguageAutoencoder, states: Tensor, head: Tensor, count: int) -> Tensor:
    """``count`` tokens (B, G) after ``head``, decoded greedily without special tokens."""
    special = torch.tensor(autoencoder.tokenizer.all_special_ids, device=states.device)
    ids = head
    for _ in range(count):
        logits = autoencoder.language_model.logits(states, None, ids)[:, -1]
        ids = torch.cat([ids, logits.index_fill(1, special, -torch.inf).argmax(-1, keepdim=True)], dim=1)
    return ids[:, head.shape[1] :]
