"""Fits guides to what a model writes: x_start at every step of sampling, and what the words of the text say at its end.

Letters: B samples, S sampling steps, N latent positions, d latent width, F features, C classes.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.data.labelled import LabelledTexts
from ld4lg_fast.diffusion.guides import Guide, held_out, loss_of, regression
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.pipeline.text_guide import TextGuide
from ld4lg_fast.pipeline.word_model import WordModel

FEWEST_TEXTS = 20
PENALTIES = (1e-1, 1e-2, 1e-3)
TEMPERATURES = torch.logspace(-1, 2, 61)


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
    """A guide towards probabilities (B, C) of ``num_outputs`` classes, or numbers (B,) (None).

    The penalty and a temperature for each noise level are chosen on held-out samples.

    Returns:
        The guide, and by noise level its accuracy, or the root mean square error of a number, on held-out samples.
    """
    features = trajectories.features()
    held = held_out(features.shape[1])
    centre, spread = features[:, ~held].mean(dim=(0, 1)), features[-1, ~held].std()
    mean, scale = (0.0, 1.0) if num_outputs else (targets.mean(), targets.std())
    inputs, wanted = (features - centre) / spread, (targets - mean) / scale

    def fitted(rows: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        known = inputs[:, rows].flatten(0, 1)
        repeated = wanted[rows].repeat(len(inputs), *[1] * (wanted.dim() - 1))
        return regression(lambda w, b: known @ w.T + b, repeated, known.shape[1], num_outputs, penalty)

    tried = {}
    for penalty in PENALTIES:
        weight, bias = fitted(~held, penalty)
        scores = inputs[:, held] @ weight.T + bias
        temperatures = torch.stack([_temperature(level, wanted[held]) for level in scores])
        losses = [
            loss_of(level / (temperature if num_outputs else 1), wanted[held])
            for level, temperature in zip(scores, temperatures, strict=True)
        ]
        tried[penalty] = (torch.stack(losses).mean().item(), temperatures, scores)
    best = min(tried, key=lambda penalty: tried[penalty][0])
    _, temperatures, scores = tried[best]
    weight, bias = fitted(torch.ones_like(held), best)
    weight = weight * scale / spread
    bias = bias * scale + mean - weight @ centre
    if num_outputs:
        quality = [(level.argmax(1) == wanted[held].argmax(1)).float().mean().item() for level in scores]
    else:
        temperatures = temperatures * scale
        quality = temperatures.tolist()
    last = features[-1] - features[-1].mean(dim=0)
    direction = (weight @ last.T) @ last / len(last)
    tensors: Any = {
        "weight": weight,
        "bias": bias,
        "direction": direction,
        "log_snr": trajectories.log_snr.float(),
    }
    return Guide(**tensors, temperature=temperatures, is_number=num_outputs is None), quality


def _temperature(scores: Tensor, targets: Tensor) -> Tensor:
    """What to divide logits (B, C) by, so that cross-entropy is least; of numbers (B, 1) the error's deviation."""
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
        guide, held_out = fit_guide(trajectories, said.softmax(dim=1), said.shape[1])
    facts = {"num_texts": len(data.texts), "fingerprint": data.fingerprint()}
    return TextGuide(guide, classes, words, facts | {"held_out": held_out, "held_out_words": quality})
