"""`TextGuide`: a guide with the names of its classes and a model of words, as a run keeps it in ``guides/``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.checkpoints.files import write_json
from ld4lg_fast.checkpoints.schemas import GuideFile, read
from ld4lg_fast.checkpoints.tensors import load_weights, save_weights
from ld4lg_fast.diffusion.guides import Guide
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.guide_options import NAME
from ld4lg_fast.export.runtime.option_checks import shown
from ld4lg_fast.pipeline.word_model import WordModel

FOLDER = "guides"
LENGTH = "length"  # the guide of the number of tokens


def check_name(name: object) -> str:
    """A guide's name, which is that of its files.

    Raises:
        ConfigError: it is not one word of letters, digits, ``_`` and ``-``, or it is ``length``.
    """
    if name == LENGTH:
        raise ConfigError("The guide length is that of the number of tokens; give this one another name.")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"The guide's name is {shown(name)}; it must be a letter and at most 63 letters, digits, _ or - "
            "(the option --name of ld4lg guide)."
        )
    return name


@dataclass(frozen=True)
class TextGuide:
    """A `Guide`, the names of its classes, and what judges written texts.

    Args:
        classes: names, in the order of the guide's outputs; None: it is of a number. One more output stands for texts
            that are of none of the classes, where the data had some.
        words: judges the attribute of written texts; None for the length in tokens, which is counted.
        facts: of the training: ``num_texts``, ``fingerprint`` of the data, ``held_out`` (by noise level: accuracy, or
            the root mean square error of a number) and ``held_out_words``, the same of the model of words.
    """

    guide: Guide
    classes: tuple[str, ...] | None
    words: WordModel | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def log_probs(self, texts: Sequence[str], targets: Tensor) -> Tensor:
        """Log-probability (B,) of each text's target by its words; of a number that of a Gaussian, up to a constant."""
        assert self.words is not None  # else the pipeline counts tokens
        scores = self.words.scores(texts)
        if self.classes is None:
            return self.of_number(scores[:, 0], targets)
        return scores.log_softmax(dim=1).gather(1, targets.long()[:, None])[:, 0]

    def of_number(self, numbers: Tensor, targets: Tensor) -> Tensor:
        """Log-probability (B,), up to a constant, of numbers whose error is that of the guide near data."""
        return -((numbers - targets) / self.guide.temperature[-1].cpu()).square() / 2

    def save(self, directory: Path, name: str) -> None:
        """Writes ``NAME.safetensors``, its words in half precision, and ``NAME.json``.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written to.
        """
        guide = self.guide
        sizes = (len(guide.hidden), guide.hidden.shape[1], len(guide.output), len(guide.log_snr))
        stored = _Tensors(*sizes, None if self.words is None else len(self.words.grams))
        for key in stored.of_guide:
            setattr(stored, key, getattr(guide, key).cpu())
        if self.words is not None:
            stored.words_weight, stored.words_bias = self.words.weight.half(), self.words.bias
        save_weights(stored, directory / f"{name}.safetensors")
        write_json(
            directory / f"{name}.json",
            {
                "format": 1,
                "classes": None if self.classes is None else list(self.classes),
                "num_hidden": len(guide.hidden),
                "num_outputs": len(guide.output),
                "log_snr": guide.log_snr.tolist(),
                "words": None if self.words is None else list(self.words.grams),
                **self.facts,
            },
        )

    @classmethod
    def load(cls, directory: Path, name: str, num_features: int) -> "TextGuide":
        """Reads what `save` wrote, for latents of ``num_features`` numbers.

        Raises:
            CheckpointError: a file is missing, damaged, or of another model.
        """
        file = read(GuideFile, directory / f"{name}.json", "a folder of guides")
        grams = None if file.words is None else tuple(file.words)
        sizes = (file.num_hidden, num_features, file.num_outputs, len(file.log_snr))
        stored = _Tensors(*sizes, None if grams is None else len(grams))
        load_weights(stored, directory / f"{name}.safetensors")
        guide = Guide(
            **{key: getattr(stored, key) for key in stored.of_guide},
            log_snr=torch.tensor(file.log_snr),
            is_number=file.classes is None,
        )
        words = None if grams is None else WordModel(grams, stored.words_weight, stored.words_bias)
        classes = None if file.classes is None else tuple(file.classes)
        facts = file.model_dump(include={"num_texts", "fingerprint", "held_out", "held_out_words"})
        return cls(guide, classes, words, facts)


def load_guides(directory: Path, autoencoder: LanguageAutoencoder) -> dict[str, TextGuide]:
    """The guides of a run by name, in alphabetical order; none without the folder.

    Raises:
        CheckpointError: a file is missing, damaged, or of another model.
    """
    # Of texts with lengths the features are the mean over their positions.
    positions = 1 if autoencoder.perceiver is None else autoencoder.num_latents
    names = sorted(path.stem for path in directory.glob("*.json") if NAME.fullmatch(path.stem))
    return {name: TextGuide.load(directory, name, positions * autoencoder.dim_latent) for name in names}


def save_guides(guides: Mapping[str, TextGuide], directory: Path) -> None:
    """Writes all guides; those of other names are removed.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to.
    """
    for path in directory.glob("*"):
        if path.stem not in guides and path.suffix in (".json", ".safetensors"):
            path.unlink()
    for name, guide in guides.items():
        guide.save(directory, name)


class _Tensors(nn.Module):
    """The tensors of a guide's file, of known shapes."""

    words_weight: Tensor
    words_bias: Tensor
    of_guide = ("hidden", "hidden_bias", "output", "output_bias", "modulation", "temperature")

    def __init__(self, hidden: int, features: int, outputs: int, levels: int, num_grams: int | None) -> None:
        super().__init__()
        sizes: dict[str, tuple[int, ...]] = {
            "hidden": (hidden, features),
            "hidden_bias": (hidden,),
            "output": (outputs, hidden),
            "output_bias": (outputs,),
            "modulation": (levels, 2, hidden),
            "temperature": (levels,),
        }
        if num_grams is not None:
            sizes |= {"words_weight": (outputs, num_grams), "words_bias": (outputs,)}
        for key, size in sizes.items():
            self.register_buffer(key, torch.zeros(*size))
