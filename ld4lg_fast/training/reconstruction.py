"""Reconstruction quality of an autoencoder. Letters: B batch, T tokens, N latents, d latent width."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import log

import torch
from rich.table import Table
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import NO_AUGMENTATION
from ld4lg_fast.data import TokenizedTexts, collate
from ld4lg_fast.decoding import NO_RULES, DecodingConfig
from ld4lg_fast.engine.distributed import gathered, share
from ld4lg_fast.export.runtime.similarity import set_apart
from ld4lg_fast.training.session import Session

BATCH = 64
PAIRS = 2**28  # most attended pairs of positions in a Perceiver's batch: masks of a few gigabytes
FEW = 50.0  # per cent of distinct reconstructions below which a warning is given
# A decoder whose loss is above this share of the unigram entropy has learned little more than token frequencies.
UNTRAINED = 0.9
# Latents have collapsed if they account for less than this share of the decoder's gain over the unigram entropy.
COLLAPSED = 0.03


@dataclass(frozen=True)
class Reconstruction:
    """Metrics over ``num_texts`` greedily decoded texts; the first four in per cent.

    ``exact_match``: texts reconstructed exactly. ``token_accuracy``: tokens reconstructed at their position. ``bleu``:
    corpus BLEU of sacrebleu. ``distinct``: distinct reconstructions relative to distinct texts. ``examples``: pairs of
    original and reconstruction. In nats per token, teacher-forced: ``loss``, and ``swapped_loss`` with the latents of
    another text; ``entropy``: unigram entropy of the tokens.
    """

    exact_match: float
    token_accuracy: float
    bleu: float
    distinct: float
    loss: float
    swapped_loss: float
    entropy: float
    num_texts: int
    examples: list[tuple[str, str]]

    def as_dict(self) -> dict:
        return asdict(self) | {"warning": self.warning()}

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
        """A warning if too few reconstructions are distinct, as latents then hold little of the text; else None."""
        if self.distinct >= FEW:
            return None
        few = f"only {self.distinct:.1f} % of the texts come back as one of their own"
        if self.loss > UNTRAINED * self.entropy:
            why = f"a token costs its decoder {self.loss:.2f} nats, and {self.entropy:.2f} where nothing is known"
        elif self.swapped_loss - self.loss < COLLAPSED * (self.entropy - self.loss):
            return (
                f"The latents have collapsed: {few}, as the decoder writes nearly the same from another text's latents "
                f"(a token costs {self.loss:.3f} and {self.swapped_loss:.3f} nats), so that what the denoiser learns "
                "decides little. Train the autoencoder with less of autoencoder.decoder_noise, "
                "autoencoder.position_dropout or autoencoder.token_masking, or longer."
            )
        else:
            why = "its decoder has only begun to read the latents"
        remedy = "Give it more train.autoencoder.steps or train.max_minutes."
        return f"The autoencoder is undertrained: {few}; {why}. {remedy}"


@dataclass(frozen=True)
class Swapped:
    """An `Augmentation` that gives each text the latents of the previous one."""

    def corrupt_tokens(self, ids: Tensor, *_: object) -> Tensor:
        return ids

    def augment_latents(self, latents: Tensor, _: object) -> Tensor:
        return latents.roll(1, dims=0)


def exact_decoding(max_len: int) -> DecodingConfig:
    """Greedy decoding without constraints for texts of up to ``max_len`` tokens (the start token counts)."""
    return DecodingConfig("greedy", max_len + 1, min_length=0, **NO_RULES)


def texts_at_once(autoencoder: LanguageAutoencoder, most: int) -> int:
    """Batch size for encoding: ``most``, or fewer with very many latents."""
    return most if autoencoder.perceiver is None else max(1, min(most, PAIRS // autoencoder.num_latents**2))


@torch.no_grad()
def encode_texts(
    autoencoder: LanguageAutoencoder,
    ids: Sequence[list[int]],
    device: torch.device,
    states: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Token ids of B texts -> latents (B, N, d) on ``device``, and their mask (B, N) in recipe v1.

    ``states``: the language model's, see `LanguageAutoencoder.encode`, if they are known.
    """
    max_len, pad = autoencoder.max_len, autoencoder.tokenizer.pad_token_id
    if autoencoder.perceiver is not None:
        input_ids, mask = collate(ids, pad, max_len=max_len)
        states = None if states is None else states.to(device)
        return autoencoder.encode(input_ids.to(device), mask.to(device), states), None
    # As published, the encoder states of padding are part of the latents.
    input_ids, mask = collate(ids, pad, multiple_of=max_len, max_len=max_len)
    return autoencoder.encode(input_ids.to(device), mask.to(device)), mask.to(device)


def measure_reconstruction(
    autoencoder: LanguageAutoencoder,
    tokens: TokenizedTexts | Sequence[list[int]],
    session: Session,
    is_over: Callable[[], bool] = lambda: False,
    num_examples: int = 8,
) -> Reconstruction | None:
    """Encodes and decodes texts given as token ids; ``is_over`` may end it after any batch.

    The texts are distributed over the processes: call in all of them. Returns None in all but the main process.
    """
    autoencoder.eval()
    decoding, mine = exact_decoding(autoencoder.max_len), share(len(tokens), session.accelerator)

    def of_mine() -> tuple[list[list[int]], list[float]]:
        copies: list[list[int]] = []
        sums = [0.0, 0.0, 0.0]
        batch = texts_at_once(autoencoder, BATCH)
        while len(copies) < len(mine) and not (copies and is_over()):
            ids = [tokens[i] for i in mine[len(copies) : len(copies) + batch]]
            latents, mask = encode_texts(autoencoder, ids, session.device)
            copies += autoencoder.generate(latents, decoding, mask=mask)
            sums = [a + b for a, b in zip(sums, _losses(autoencoder, ids, session.device), strict=True)]
        return copies, sums

    copies, sums = session.interruptible(of_mine)
    done = mine[: len(copies)]
    pairs = gathered(
        done, [(tokens[i], copy) for i, copy in zip(done, copies, strict=True)], session.accelerator
    )
    loss, swapped, count = session.summed(*sums)
    return (
        None if pairs is None else _compare(autoencoder, pairs, loss / count, swapped / count, num_examples)
    )


def _losses(
    autoencoder: LanguageAutoencoder, ids: Sequence[list[int]], device: torch.device
) -> tuple[float, float, float]:
    """Losses from the texts' own and from swapped latents, summed over the tokens, and the number of tokens."""
    input_ids, mask = collate(ids, autoencoder.tokenizer.pad_token_id, max_len=autoencoder.max_len)
    input_ids, mask = input_ids.to(device), mask.to(device)
    count = int(mask.sum())
    own, other = (
        autoencoder.loss(input_ids, mask, augmentation).item()
        for augmentation in (NO_AUGMENTATION, Swapped())
    )
    return own * count, other * count, count


def _compare(
    autoencoder: LanguageAutoencoder,
    pairs: Sequence[tuple[list[int], list[int]]],
    loss: float,
    swapped_loss: float,
    num_examples: int,
) -> Reconstruction:
    """Metrics of pairs of token ids: a text, and its reconstruction."""
    # Imported here, as it takes a second.
    from sacrebleu import corpus_bleu

    special = set(autoencoder.tokenizer.all_special_ids)
    wanted = [[token for token in row if token not in special] for row, _ in pairs]
    got = [copy for _, copy in pairs]
    originals, copies = autoencoder.decode_text(wanted), autoencoder.decode_text(got)
    total = sum(max(len(want), len(have)) for want, have in zip(wanted, got, strict=True))
    right = sum(sum(map(int.__eq__, want, have)) for want, have in zip(wanted, got, strict=True))
    texts = list(zip(originals, copies, strict=True))
    spaced = [[set_apart(text) for text in side] for side in (originals, copies)]
    return Reconstruction(
        exact_match=round(100 * sum(original == copy for original, copy in texts) / len(texts), 2),
        token_accuracy=round(100 * right / max(1, total), 2),
        bleu=round(corpus_bleu(spaced[1], [spaced[0]]).score, 2),
        distinct=round(min(100.0, 100 * len(set(copies)) / len(set(originals))), 2),
        loss=round(loss, 4),
        swapped_loss=round(swapped_loss, 4),
        entropy=round(_entropy(Counter(token for row, _ in pairs for token in row)), 4),
        num_texts=len(texts),
        examples=texts[:num_examples],
    )


def _entropy(counts: Counter) -> float:
    """Entropy of counts, in nats."""
    return log(counts.total()) - sum(count * log(count) for count in counts.values()) / counts.total()
