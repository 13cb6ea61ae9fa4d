"""How well an autoencoder reconstructs texts. Letters: B batch, T tokens, N latents, d latent width."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from rich.table import Table
from torch import Tensor

from ld4lg_fast.autoencoder import LanguageAutoencoder
from ld4lg_fast.data import collate
from ld4lg_fast.decoding import DecodingConfig

BATCH = 64


@dataclass(frozen=True)
class Reconstruction:
    """Figures over ``num_texts`` texts, decoded greedily; the first four in per cent.

    ``exact_match``: texts that come back unchanged. ``token_accuracy``: tokens that come back in their place.
    ``bleu``: corpus BLEU of sacrebleu. ``examples``: pairs of original and reconstruction.
    """

    exact_match: float
    token_accuracy: float
    bleu: float
    num_texts: int
    examples: list[tuple[str, str]]

    def as_dict(self) -> dict:
        return asdict(self)

    def table(self) -> Table:
        table = Table(title=f"Reconstruction of {self.num_texts} validation texts")
        for title in ("exact match", "token accuracy", "BLEU"):
            table.add_column(title, justify="right")
        table.add_row(f"{self.exact_match:.1f} %", f"{self.token_accuracy:.1f} %", f"{self.bleu:.1f}")
        return table


def exact_decoding(max_len: int) -> DecodingConfig:
    """Greedy decoding that can give back any text of ``max_len`` tokens (the decoder's own start counts)."""
    return DecodingConfig("greedy", max_len + 1, min_length=0, no_repeat_ngram_size=0, repetition_penalty=1.0)


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
    device: torch.device,
    is_over: Callable[[], bool] = lambda: False,
    num_examples: int = 8,
) -> Reconstruction:
    """Encodes and decodes texts given as token ids; ``is_over`` may end it after any batch."""
    # Imported late: it costs a second and only this function needs it.
    from sacrebleu import corpus_bleu

    autoencoder.eval()
    special = set(autoencoder.tokenizer.all_special_ids)
    decoding = exact_decoding(autoencoder.max_len)
    wanted, got = [], []
    for start in range(0, len(tokens), BATCH):
        ids = [tokens[i] for i in range(start, min(start + BATCH, len(tokens)))]
        latents, mask = encode_texts(autoencoder, ids, device)
        got += autoencoder.generate(latents, decoding, mask=mask)
        wanted += [[token for token in row if token not in special] for row in ids]
        if is_over():
            break
    originals, copies = autoencoder.decode_text(wanted), autoencoder.decode_text(got)
    total = sum(max(len(want), len(have)) for want, have in zip(wanted, got, strict=True))
    right = sum(sum(map(int.__eq__, want, have)) for want, have in zip(wanted, got, strict=True))
    pairs = list(zip(originals, copies, strict=True))
    return Reconstruction(
        exact_match=round(100 * sum(original == copy for original, copy in pairs) / len(pairs), 2),
        token_accuracy=round(100 * right / max(1, total), 2),
        bleu=round(corpus_bleu(copies, [originals]).score, 2),
        num_texts=len(pairs),
        examples=pairs[:num_examples],
    )
