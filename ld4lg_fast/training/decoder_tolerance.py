"""How a decoder takes latents that no encoder made: noised ones, and those that a denoiser samples.

A decoder that reconstructs encoded texts perfectly may still write badly from sampled latents, which differ a little
from encoded ones. Letters: B texts, N latents, d latent width, T tokens, V vocabulary.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import add_noise
from ld4lg_fast.data import TextSplit, TokenizedTexts, collate, tokenize_texts
from ld4lg_fast.decoding.reranking import until_end
from ld4lg_fast.diffusion.schedules import DiscreteSchedule
from ld4lg_fast.export.runtime.similarity import words
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.training.reconstruction import encode_texts, exact_decoding
from ld4lg_fast.training.time_budget import StageClock
from ld4lg_fast.training.validation import deterministic_sampling

NOISES = 0.1, 0.25, 0.5, 0.75  # shares of noise in the latents' variance
TEXTS = 256
BATCH = 16  # logits of all positions are in memory
SEED = 0
STRENGTH = 0.5  # time to which a text's latents are noised before they are sampled again
STEPS = 25  # of sampling, but for distilled denoisers
ORDER = 4  # of the n-grams that make a text a repeated one

# Limits of `checks`, chosen by hand; benchmarks/decoder_tolerance.py measures what the figures say of a finished model.
NOISE_COST = 0.5
RESAMPLED_COST = 1.0
LOST_MARGIN = 0.15
ADDED_ENTROPY = 0.5
OTHER_LENGTH = 0.25
EMPTY = 0.01
BEYOND_REAL = 0.05
MORE_NOISE = "train with more autoencoder.decoder_noise, or train.finetune_decoder_from"

Tokens = TokenizedTexts | Sequence[list[int]]
"""Texts as token ids."""


@dataclass(frozen=True)
class Reading:
    """Means over the tokens of texts that the decoder reads teacher-forced.

    ``loss``: cross-entropy, and ``entropy`` of the decoder's distribution, both in nats; ``margin``: probability of the
    most probable token less that of the second.
    """

    loss: float
    entropy: float
    margin: float


@dataclass(frozen=True)
class TextShape:
    """``words``: mean number in a text. Shares of the texts: ``empty``; ``repeated``, with a word 4-gram that occurs
    twice in it; ``identical``, equal to another one of them."""

    words: float
    empty: float
    repeated: float
    identical: float

    @classmethod
    def of(cls, texts: Sequence[str]) -> "TextShape":
        rows, counts = [words(text) for text in texts], Counter(texts)
        grams = [[tuple(row[i : i + ORDER]) for i in range(len(row) - ORDER + 1)] for row in rows]
        share = 1 / len(texts)
        return cls(
            words=share * sum(map(len, rows)),
            empty=share * sum(not text.strip() for text in texts),
            repeated=share * sum(len(set(row)) < len(row) for row in grams),
            identical=share * sum(counts[text] > 1 for text in texts if text.strip()),
        )


@torch.no_grad()
def reading(
    autoencoder: LanguageAutoencoder, latents: Tensor, mask: Tensor | None, tokens: Tokens
) -> Reading:
    """The decoder's reading of texts, given as token ids, from latents (B, N, d) and in recipe v1 their mask (B, N)."""
    lm, tokenizer = autoencoder.language_model, autoencoder.tokenizer
    sums, count = torch.zeros(3, dtype=torch.float64), 0
    for start in range(0, len(tokens), BATCH):
        rows = slice(start, start + BATCH)
        texts = [[lm.start, *tokens[row]] for row in range(len(tokens))[rows]]
        ids, _ = collate(texts, tokenizer.pad_token_id, max_len=autoencoder.max_len + 1)
        ids, kept = ids.to(latents.device), None if mask is None else mask[rows]
        states = autoencoder.readable_states(latents[rows], kept).to(lm.lm.dtype)
        scores = lm.logits(states, kept, ids[:, :-1]).float().log_softmax(-1)
        own = until_end(lm, ids[:, 1:])
        losses = -scores.gather(2, ids[:, 1:, None]).squeeze(2)
        entropies = -(scores.exp() * scores).nan_to_num().sum(-1)
        first, second = scores.topk(2).values.exp().unbind(-1)
        found = torch.stack([losses, entropies, first - second]).double()
        sums += (found * own).sum(dim=(1, 2)).cpu()
        count += int(own.sum())
    return Reading(*(sums / count).tolist())


def noised_readings(
    autoencoder: LanguageAutoencoder, latents: Tensor, mask: Tensor | None, tokens: Tokens
) -> dict[str, Reading]:
    """Readings by kind of latents: ``clean``, and ``noise_S`` for each share S of `NOISES`."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(SEED)).to(latents)
    kinds = {"clean": latents} | {f"noise_{share}": add_noise(latents, noise, share) for share in NOISES}
    return {name: reading(autoencoder, own, mask, tokens) for name, own in kinds.items()}


def encoded(
    autoencoder: LanguageAutoencoder, tokens: Tokens, device: torch.device
) -> tuple[Tensor, Tensor | None]:
    """Latents (B, N, d) of texts given as token ids, and in recipe v1 their mask (B, N)."""
    parts = [
        encode_texts(autoencoder, [tokens[row] for row in range(len(tokens))[start : start + BATCH]], device)
        for start in range(0, len(tokens), BATCH)
    ]
    masks = [mask for _, mask in parts if mask is not None]
    return torch.cat([latents.float() for latents, _ in parts]), torch.cat(masks) if masks else None


@torch.no_grad()
def stage_one_tolerance(
    autoencoder: LanguageAutoencoder, tokens: Tokens, device: torch.device
) -> dict[str, dict]:
    """Readings of texts, given as token ids, from their own latents, clean and noised; figures by kind of latents."""
    latents, mask = encoded(autoencoder, tokens, device)
    return {name: asdict(own) for name, own in noised_readings(autoencoder, latents, mask, tokens).items()}


def sampling_options(pipe: TextDiffusionPipeline) -> dict[str, Any]:
    """Options of `TextDiffusionPipeline.sample` for the figures: the same for all models of a kind."""
    schedule, num_steps = pipe.model.diffusion.schedule_for_sampling, STEPS
    if isinstance(schedule, DiscreteSchedule):
        num_steps = max(1, min(STEPS, int(STRENGTH * schedule.num_train_timesteps)))  # levels below that time
    return deterministic_sampling(pipe.model, num_steps) | {"guidance_scale": 1.0, "seed": SEED}


def _conditions(pipe: TextDiffusionPipeline, split: TextSplit) -> dict[str, Any]:
    """The classes and sources of a split, of those that the model is conditioned on."""
    found: dict[str, Any] = {}
    if split.labels is not None and pipe.model.denoiser.config.num_classes:
        found["class_id"] = split.labels
    if split.sources is not None and pipe.model.is_seq2seq:
        found["source"] = list(split.sources)
    return found


@torch.no_grad()
def measure_tolerance(pipe: TextDiffusionPipeline, split: TextSplit) -> dict[str, dict]:
    """Figures of a pipeline's decoder by kind of latents, and of the texts it writes.

    Besides those of `stage_one_tolerance`: ``resampled``, real texts from latents that were noised to time `STRENGTH`
    and denoised; ``sampled``, the decoder's own greedy texts from sampled latents. ``real_texts`` and
    ``sampled_texts`` have the fields of `TextShape`. Models that write documents have none of these four, as their
    latents need blocks before them.

    Args:
        split: real texts, with the classes or sources that the model is conditioned on.
    """
    autoencoder, texts = pipe.autoencoder, list(split.texts)
    tokens = tokenize_texts(texts, autoencoder.tokenizer, autoencoder.max_len)
    latents, mask = encoded(autoencoder, tokens, pipe.device)
    readings = noised_readings(autoencoder, latents, mask, tokens)
    if pipe.model.writes_documents:
        return {name: asdict(own) for name, own in readings.items()}
    common = sampling_options(pipe) | _conditions(pipe, split)
    lengths = None if mask is None else mask.sum(dim=1)
    again = pipe.sample(len(texts), start=latents.float(), strength=STRENGTH, lengths=lengths, **common)
    readings["resampled"] = reading(autoencoder, again.latents, again.mask, tokens)
    sampled = pipe.sample(len(texts), **common)
    decoding = exact_decoding(autoencoder.max_len)
    written = autoencoder.decode_text(autoencoder.generate(sampled.latents, decoding, mask=sampled.mask))
    own_tokens = tokenize_texts(written, autoencoder.tokenizer, autoencoder.max_len)
    readings["sampled"] = reading(autoencoder, sampled.latents, sampled.mask, own_tokens)
    found = {name: asdict(own) for name, own in readings.items()}
    shapes = {"real_texts": texts, "sampled_texts": written}
    return found | {name: asdict(TextShape.of(own)) for name, own in shapes.items()}


def of_as_many_as_fit(
    measure: Callable[[int], Mapping[str, Mapping[str, float]]], available: int, clock: StageClock
) -> dict[str, Any]:
    """Figures by ``measure`` of the first `TEXTS` texts, or of as many as the stage has time for, but at least `BATCH`;
    with `checks` and ``num_texts``.

    Args:
        available: how many texts there are.
    """
    most = min(TEXTS, available)
    count = most if clock.left() == math.inf else min(BATCH, most)
    start = clock.run.seconds()
    found = measure(count)
    each = (clock.run.seconds() - start) / count
    fitting = most if each * most <= clock.left() else int(clock.left() / each)
    if fitting > count:
        count, found = fitting, measure(fitting)
    return with_checks(found) | {"num_texts": count}


@dataclass(frozen=True)
class Check:
    """A figure of the decoder's tolerance in plain words: ``value`` ought not to be above ``limit``."""

    figure: str
    value: float
    limit: float
    remedy: str

    @property
    def passed(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        kept = f"{self.figure}: {self.value:.3g}, at most {self.limit:.3g}"
        return f"{kept}: fine" if self.passed else f"{kept}: {self.remedy}"


def with_checks(found: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The figures, and under ``checks`` what they mean: a ``line`` each, and whether it ``passed``."""
    made = [vars(check) | {"passed": check.passed, "line": str(check)} for check in checks(found)]
    return {**found, "checks": made}


def checks(found: Mapping[str, Mapping[str, float]]) -> list[Check]:
    """The checks that the figures of `stage_one_tolerance` or `measure_tolerance` allow."""
    clean = found["clean"]
    made = [
        Check(
            "nats a token that a quarter of noise in the latents costs the decoder",
            found["noise_0.25"]["loss"] - clean["loss"],
            NOISE_COST,
            f"the decoder follows noisy latents badly: {MORE_NOISE}",
        )
    ]
    if "sampled" not in found:
        return made
    sampled, real, written = found["sampled"], found["real_texts"], found["sampled_texts"]
    badly = f"the decoder follows sampled latents badly: {MORE_NOISE}"
    longer = "train the denoiser longer, or sample with more steps"
    return made + [
        Check(
            "nats a token that noising a text's latents to time 0.5 and denoising them costs",
            found["resampled"]["loss"] - clean["loss"],
            RESAMPLED_COST,
            badly,
        ),
        Check(
            "margin of the decoder's first token over its second that sampled latents cost",
            clean["margin"] - sampled["margin"],
            LOST_MARGIN,
            badly,
        ),
        Check(
            "entropy of the decoder's tokens, in nats, that sampled latents add",
            sampled["entropy"] - clean["entropy"],
            ADDED_ENTROPY,
            badly,
        ),
        Check(
            "relative difference in words a text of samples from real texts",
            abs(written["words"] - real["words"]) / max(real["words"], 1.0),
            OTHER_LENGTH,
            longer,
        ),
        Check("share of empty texts", written["empty"], EMPTY, badly),
        Check(
            "share of texts that repeat four words, beyond that of real texts",
            written["repeated"] - real["repeated"],
            BEYOND_REAL,
            badly,
        ),
        Check(
            "share of texts that equal another, beyond that of real texts",
            written["identical"] - real["identical"],
            BEYOND_REAL,
            longer,
        ),
    ]
