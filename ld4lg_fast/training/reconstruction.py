"""How well an autoencoder reconstructs texts. Letters: B batch, T tokens, N latents, d latent width."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import Tensor

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.sharing import gathered, share
from ld4lg_fast.training.session import Session

BATCH = 64
COLLAPSED = 50.0  # per cent of distinct reconstructions below which the latents tell texts apart no more


@dataclass(frozen=True)
class Reconstruction:
    """Figures over ``num_texts`` texts, decoded greedily; the first four in per cent.

    ``exact_match``: texts that come back unchanged. ``token_accuracy``: tokens that come back in their place.
    ``bleu``: corpus BLEU of sacrebleu. ``distinct``: different reconstructions to different texts. ``examples``: pairs
    of original and reconstruction.
    """

    exact_match: float
    token_accuracy: float
    bleu: float
    distinct: float
    num_texts: int
    examples: list[tuple[str, str]]

    def as_dict(self) -> dict:
        return asdict(self)

    def table(self) -> Table:
        table = Table(title=f"Reconstruction of {self.num_texts} validation texts")
        for title in ("exact match", "token accuracy", "BLEU", "distinct"):
            table.add_column(title, justify="right")
        exact, tokens, distinct = (
            f"{value:.1f} %" for value in (self.exact_match, self.token_accuracy, self.distinct)
        )
        table.add_row(exact, tokens, f"{self.bleu:.1f}", distinct)
        return table

    def warning(self) -> str | None:
        """What to do where the decoder writes by itself and the latents, which the denoiser learns, say nothing."""
        if self.distinct >= COLLAPSED:
            return None
        return (
            f"The latents have collapsed: only {self.distinct:.1f} % of the texts come back as one of their own, and "
            "what the denoiser learns decides little. Train the autoencoder longer, or with less of "
            "autoencoder.decoder_noise, autoencoder.position_dropout or autoencoder.token_masking."
        )


def exact_decoding(max_len: int) -> DecodingConfig:
    """Greedy decoding that can give back any text of ``max_len`` tokens (the decoder's own start counts)."""
    return DecodingConfig("greedy", max_len + 1, min_length=0, **NO_RULES)


@torch.no_grad()
def encode_texts(
    autoencoder: LanguageAutoencoder, ids: Sequence[list[int]], device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Token ids of B texts -> latents (B, N, d) on ``device``, and their mask (B, N) in recipe v1."""
    max_len, pad = autoencoder.max_len, autoencoder.tokenizer.pad_token_id
    if autoencoder.perceiver is not None:
        input_ids, mask = collate(ids, pad, max_len=max_len)
        return autoencoder.encode(input_ids.to(device), mask.to(device)), None
    # As published, what the encoder gives for padding is part of the latents.
    input_ids, mask = collate(ids, pad, multiple_of=max_len, max_len=max_len)
    return autoencoder.encode(input_ids.to(device), mask.to(device)), mask.to(device)


def measure_reconstruction(
    autoencoder: LanguageAutoencoder,
    tokens: Sequence[list[int]],
    session: Session,
    is_over: Callable[[], bool] = lambda: False,
    num_examples: int = 8,
) -> Reconstruction | None:
    """Encodes and decodes texts given as token ids; ``is_over`` may end it after any batch.

    The processes share the texts out: call in all of them; all but the main one get None.
    """
    autoencoder.eval()
    decoding = exact_decoding(autoencoder.max_len)
    mine, copies = share(len(tokens), session.accelerator), []
    while len(copies) < len(mine) and not (copies and is_over()):
        ids = [tokens[i] for i in mine[len(copies) : len(copies) + BATCH]]
        latents, mask = encode_texts(autoencoder, ids, session.device)
        copies += autoencoder.generate(latents, decoding, mask=mask)
    done = mine[: len(copies)]
    pairs = gathered(
        done, [(tokens[i], copy) for i, copy in zip(done, copies, strict=True)], session.accelerator
    )
    return None if pairs is None else _compare(autoencoder, pairs, num_examples)


def _compare(
    autoencoder: LanguageAutoencoder, pairs: Sequence[tuple[list[int], list[int]]], num_examples: int
) -> Reconstruction:
    """Figures of pairs of token ids: a text, and what was decoded from its latents."""
    # Imported late: it costs a second and only this function needs it.
    from sacrebleu import corpus_bleu

    special = set(autoencoder.tokenizer.all_special_ids)
    wanted = [[token for token in row if token not in special] for row, _ in pairs]
    got = [copy for _, copy in pairs]
    originals, copies = autoencoder.decode_text(wanted), autoencoder.decode_text(got)
    total = sum(max(len(want), len(have)) for want, have in zip(wanted, got, strict=True))
    right = sum(sum(map(int.__eq__, want, have)) for want, have in zip(wanted, got, strict=True))
    texts = list(zip(originals, copies, strict=True))
    return Reconstruction(
        exact_match=round(100 * sum(original == copy for original, copy in texts) / len(texts), 2),
        token_accuracy=round(100 * right / max(1, total), 2),
        bleu=round(corpus_bleu(copies, [originals]).score, 2),
        distinct=round(min(100.0, 100 * len(set(copies)) / len(set(originals))), 2),
        num_texts=len(texts),
        examples=texts[:num_examples],
    )
