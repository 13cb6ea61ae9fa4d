"""Fits guides to what a model writes: x_start at every step of sampling, and what the words of the text say at its end.

Letters: B samples, S sampling steps, N latent positions, d latent width, F features, C classes.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.data.labelled import LabelledTexts
from ld4lg_fast.diffusion.guides import Guide
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.text_guide import TextGuide
from ld4lg_fast.pipeline.word_model import WordModel, held_out, loss_of

FEWEST_TEXTS = 20
HIDDEN = 128  # units of a guide
LEARNED = ("hidden", "hidden_bias", "output", "output_bias", "modulation")
BATCH, EPOCHS, LEAST_STEPS = 512, 12, 200
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 3e-2
TEMPERATURES = torch.logspace(-0.3, 2, 47)  # from 0.5: a few samples that are told apart do not make it surer


@dataclass(frozen=True)
class Trajectories:
    """Samples of a model: the normalised x_start (S, B, N, d) predicted in each step, at the levels ``log_snr`` (S,)
    ascending, the ``mask`` (B, N) of recipe v1, and the ``texts`` (B) that were written in the end."""

    x_starts: Tensor
    log_snr: Tensor
    mask: Tensor | None
    texts: list[str]

    def features(self) -> Tensor:
        """(S, B, F): all numbers of an x_start, or the mean of its real positions where texts have lengths."""
        if self.mask is None:
            return self.x_starts.flatten(2)
        kept = self.mask[None, :, :, None]
        return (self.x_starts * kept).sum(dim=2) / kept.sum(dim=2)


def fit_guide(
    trajectories: Trajectories, targets: Tensor, num_outputs: int | None
) -> tuple[Guide, list[float]]:
    """A guide towards classes (B,) int64 below ``num_outputs``, or numbers (B,) (None).

    AdamW with a cosine to zero. The temperature of each noise level is chosen on held-out samples.

    Returns:
        The guide, and by noise level its accuracy, or the root mean square error of a number, on held-out samples.
    """
    features = trajectories.features()
    held = held_out(features.shape[1])
    mean, scale = torch.zeros(()), torch.ones(())
    if num_outputs is None:
        mean, scale = targets.mean(), targets.std()
    centre, spread = features[:, ~held].mean(dim=(0, 1)), features[-1, ~held].std().clamp(min=1e-6)
    known, wanted = (features[:, ~held] - centre) / spread, targets[~held]
    if num_outputs is None:
        wanted = (wanted - mean) / scale
    generator = torch.Generator().manual_seed(0)
    guide = _new_guide(features.shape[2], num_outputs or 1, trajectories.log_snr, generator)
    guide = replace(guide, is_number=num_outputs is None)
    parameters = [getattr(guide, name).requires_grad_() for name in LEARNED]
    steps = max(LEAST_STEPS, EPOCHS * known.shape[0] * known.shape[1] // BATCH)
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    with torch.enable_grad():
        for _ in range(steps):
            levels = torch.randint(known.shape[0], (BATCH,), generator=generator)
            rows = torch.randint(known.shape[1], (BATCH,), generator=generator)
            optimizer.zero_grad()
            loss_of(guide.scores(known[levels, rows], levels), wanted[rows]).backward()
            optimizer.step()
            schedule.step()
    learned: dict[str, Any] = {
        name: tensor.detach() for name, tensor in zip(LEARNED, parameters, strict=True)
    }
    # Inputs and numbers were standardized.
    learned["hidden"] = learned["hidden"] / spread
    learned["hidden_bias"] = learned["hidden_bias"] - learned["hidden"] @ centre
    learned |= {"output": learned["output"] * scale, "output_bias": learned["output_bias"] * scale + mean}
    guide = replace(guide, **learned)
    scores = [guide.scores(features[level, held], torch.tensor([level])) for level in range(len(features))]
    temperature = torch.stack([_temperature(level, targets[held]) for level in scores])
    if num_outputs is None:
        quality = temperature.tolist()
    else:
        quality = [(level.argmax(1) == targets[held]).float().mean().item() for level in scores]
    return replace(guide, temperature=temperature), quality


def _new_guide(num_features: int, num_outputs: int, log_snr: Tensor, generator: torch.Generator) -> Guide:
    """A guide with random weights, that does not depend on the level yet."""
    levels = len(log_snr)
    return Guide(
        hidden=torch.randn(HIDDEN, num_features, generator=generator) / num_features**0.5,
        hidden_bias=torch.zeros(HIDDEN),
        output=torch.randn(num_outputs, HIDDEN, generator=generator) / HIDDEN**0.5,
        output_bias=torch.zeros(num_outputs),
        modulation=torch.zeros(levels, 2, HIDDEN),
        log_snr=log_snr,
        temperature=torch.ones(levels),
        is_number=False,
    )


def _temperature(scores: Tensor, targets: Tensor) -> Tensor:
    """What to divide logits (B, C) by for the least cross-entropy; of numbers (B, 1) the deviation of their errors."""
    if scores.shape[1] == 1:
        return (scores[:, 0] - targets).square().mean().sqrt()
    losses = torch.stack([loss_of(scores / temperature, targets) for temperature in TEMPERATURES])
    return TEMPERATURES[losses.argmin()]


def check_labelled(data: LabelledTexts) -> None:
    """Refuses texts that nothing can be learned from.

    Raises:
        ConfigError: fewer than 20 texts, or texts of one class or of one number.
    """
    if len(data.texts) < FEWEST_TEXTS:
        raise ConfigError(f"{len(data.texts)} labelled texts tell too little; give at least {FEWEST_TEXTS}.")
    if len(set(data.labels)) == 1:
        raise ConfigError(
            f"All {len(data.texts)} texts have the label {data.labels[0]}; give texts of several."
        )


def fit_words(data: LabelledTexts) -> tuple[WordModel, tuple[str, ...] | None, float]:
    """A model of words of labelled texts, its classes (None of numbers), and its quality on held-out texts.

    If some texts are of no class, the model has one more output.
    """
    # A mixed order, as every fifth text is held out and files are sorted.
    order = torch.randperm(len(data.texts), generator=torch.Generator().manual_seed(0)).tolist()
    texts, labels = [data.texts[row] for row in order], [data.labels[row] for row in order]
    if data.numeric:
        numbers = torch.tensor(labels, dtype=torch.float32)
        mean, scale = numbers.mean(), numbers.std()
        words, error = WordModel.fit(texts, (numbers - mean) / scale, None)
        scaled = WordModel(words.grams, words.weight * scale, words.bias * scale + mean)
        return scaled, None, error * scale.item()
    classes = tuple(sorted({label for label in labels if isinstance(label, str)}))
    numbers = torch.tensor([len(classes) if label is None else classes.index(label) for label in labels])
    words, error = WordModel.fit(texts, numbers, len(classes) + (None in labels))
    return words, classes, 1 - error


def fit_text_guide(trajectories: Trajectories, data: LabelledTexts) -> TextGuide:
    """Fits a model of words to labelled texts, and a guide to what it says of the texts of the samples."""
    words, classes, quality = fit_words(data)
    said = words.scores(trajectories.texts)
    if classes is None:
        guide, held_out = fit_guide(trajectories, said[:, 0], None)
    else:
        guide, held_out = fit_guide(trajectories, said.argmax(dim=1), said.shape[1])
    facts = {"num_texts": len(data.texts), "fingerprint": data.fingerprint()}
    return TextGuide(guide, classes, words, facts | {"held_out": held_out, "held_out_words": quality})
