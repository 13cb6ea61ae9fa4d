"""Guides of a pipeline: learned from labelled texts, listed, chosen for samples, and asked what written texts are like.

Letters: B samples, N latent positions, d latent width.
"""

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.data.labelled import Label, LabelledTexts, checked_labels
from ld4lg_fast.diffusion.guides import GuideTargets
from ld4lg_fast.diffusion.schedules import sampling_grid
from ld4lg_fast.engine.engine import check_fits
from ld4lg_fast.errors import ConfigError, DataError
from ld4lg_fast.export.runtime.guide_options import Chosen, check_guides
from ld4lg_fast.options.checks import as_config_errors, check_options, text_list
from ld4lg_fast.pipeline.decode import checked_decoding
from ld4lg_fast.pipeline.guide_fitting import (
    FEWEST_TEXTS,
    Trajectories,
    check_labelled,
    fit_guide,
    fit_text_guide,
)
from ld4lg_fast.pipeline.latent_operations import LatentOperations
from ld4lg_fast.pipeline.outputs import check_free
from ld4lg_fast.pipeline.presets import sampling_plan
from ld4lg_fast.pipeline.text_guide import LENGTH, TextGuide, check_name

GUIDE_SAMPLES = 2000  # that a guide learns from
LENGTH_SAMPLES = 256

Guides = Mapping[str, Any] | GuideTargets
"""Classes or numbers by the names of guides, of all samples or lists with one for each; or what they resolve to."""


class GuideOperations(LatentOperations, ABC):
    """The part of `TextDiffusionPipeline` that says what texts should be like."""

    def guides(self) -> dict[str, tuple[str, ...] | None]:
        """Names of the guides and of their classes; None for a guide of a number, as ``length`` is."""
        known = {name: guide.classes for name, guide in self.text_guides.items()}
        length: dict[str, tuple[str, ...] | None] = (
            {} if self.autoencoder.perceiver is None else {LENGTH: None}
        )
        return length | known

    def learn_guide(
        self,
        name: str,
        texts: str | Sequence[str],
        labels: Sequence[Label],
        *,
        numeric: bool = False,
        num_samples: int = GUIDE_SAMPLES,
        **options: Any,
    ) -> TextGuide:
        """Learns the guide ``name`` from labelled texts and keeps it, until `save_pretrained` in memory alone.

        A model of words learns the labels of the texts; the guide learns, from samples of this model, what those words
        say of the texts that it writes: the latents of a text need not hold what its label says, as what the decoder
        does not write is of no use.

        Args:
            labels: a name for each text (None: of none of the classes), or, if ``numeric``, a number.
            num_samples: texts that are sampled, with ``quality="draft"`` and greedy decoding unless ``options`` of a
                call override them.

        Raises:
            ConfigError: fewer than 20 texts, labels that are no names or numbers or of one class alone, another number
                of them than of texts, a name that is none, or an option out of range.
        """
        check_name(name)
        check_options(num_samples=num_samples, numeric=numeric)
        try:
            data = checked_labels(text_list("texts", texts), labels, numeric)
        except DataError as error:
            raise ConfigError(str(error)) from error
        return self.learn_guides({name: data}, num_samples, **options)[name]

    def learn_guides(
        self, data: Mapping[str, LabelledTexts], num_samples: int = GUIDE_SAMPLES, **options: Any
    ) -> dict[str, TextGuide]:
        """`learn_guide` for several names, from the same samples."""
        for name, known in data.items():
            check_name(name)
            check_labelled(known)
        trajectories = self._trajectories("learn_guide", num_samples, **options)
        found = {name: fit_text_guide(trajectories, known) for name, known in data.items()}
        self.text_guides |= found
        return found

    def learn_length(
        self, texts: Sequence[str] | None = None, num_samples: int = LENGTH_SAMPLES, **options: Any
    ) -> TextGuide:
        """Learns the guide ``length``, the number of tokens, from samples of the model or from texts, and keeps it.

        Without ``texts`` it uses ``num_samples`` samples, with ``quality="draft"`` and greedy decoding unless
        ``options`` of a call override them. A call with ``guides={"length": 20}`` does so by itself.

        Raises:
            ConfigError: fewer than 20 texts, texts of one length, options of a call together with texts, or a model of
                recipe v1, which takes the length as a condition.
        """
        self._check_length_guide()
        check_options(num_samples=num_samples)
        if texts is None:
            trajectories = self._trajectories("learn_length", num_samples, **options)
        else:
            check_free("learn_length from texts", options, *options)
            texts = text_list("texts", texts)
            x_start = self.model.normalize(self.encode(texts)[0]).cpu()
            trajectories = Trajectories(x_start[None], torch.zeros(1), None, list(texts))
        counts = self.token_counts(trajectories.texts)
        if len(counts) < FEWEST_TEXTS:
            raise ConfigError(
                f"{len(counts)} texts tell too little of lengths; give at least {FEWEST_TEXTS}."
            )
        if counts.unique().numel() == 1:
            raise ConfigError(
                f"All texts are {counts[0].item():g} tokens long; give texts of several lengths."
            )
        guide, held_out = fit_guide(trajectories, counts, None)
        data = LabelledTexts(trajectories.texts, counts.tolist(), numeric=True)
        facts = {"num_texts": len(counts), "fingerprint": data.fingerprint()}
        facts |= {"held_out": held_out, "held_out_words": None}
        self.text_guides[LENGTH] = TextGuide(guide, None, None, facts)
        return self.text_guides[LENGTH]

    def _check_length_guide(self) -> None:
        if self.autoencoder.perceiver is None:
            raise ConfigError(
                "The guide length is not needed: a model of recipe v1 takes the length as a condition, see of_length."
            )

    def token_counts(self, texts: str | Sequence[str]) -> Tensor:
        """Number of tokens of each text without special tokens, (B,) float32.

        Raises:
            ConfigError: no texts.
        """
        tokenizer = self.autoencoder.tokenizer
        tokens = tokenize_texts(text_list("texts", texts), tokenizer, self.autoencoder.max_len)
        return torch.from_numpy(tokens.lengths).float() - tokenizer.num_special_tokens_to_add()

    def _trajectories(self, method: str, num_samples: int, **options: Any) -> Trajectories:
        """Samples and what was predicted on the way to them; ``options`` are those of a call of ``method``."""
        check_free(method, options, "best_of", "callback", "guides", "guide_scales")
        num_samples = check_fits(self.model, num_samples)
        if num_samples < FEWEST_TEXTS:
            raise ConfigError(f"num_samples is {num_samples}; a guide learns from at least {FEWEST_TEXTS}.")
        names = ("sampler", "num_inference_steps", "spacing")
        options = {"quality": "draft"} | options
        decoding = checked_decoding(options.pop("decoding", "greedy"), self.decoding, self.autoencoder)
        plan = sampling_plan(options["quality"], *(options.get(name) for name in names))
        latents = (self.autoencoder.num_latents, self.autoencoder.dim_latent)
        x_starts = torch.zeros(plan.num_steps, num_samples, *latents)

        def keep(step: int, rows: Tensor, x_start: Tensor) -> None:
            x_starts[step, rows.cpu(), : x_start.shape[1]] = x_start.float().cpu()

        sampled = self.sample(num_samples, callback=keep, **options)
        texts = self.decode(sampled.latents, decoding, mask=sampled.mask)
        schedule = self.model.diffusion.schedule_for_sampling
        grid = sampling_grid(schedule, plan.num_steps, plan.spacing, self.model.learned_times)
        mask = None if sampled.mask is None else sampled.mask.cpu()
        return Trajectories(x_starts, grid.log_snr[:-1].float(), mask, texts)

    def _guide_targets(
        self, guides: Guides | None, scales: Mapping[str, Any] | None, num_samples: int
    ) -> GuideTargets | None:
        """What leads each of the samples, or None where nothing does.

        Raises:
            ConfigError: a guide or a class that does not exist, or another number of values than of samples.
        """
        if isinstance(guides, GuideTargets):
            return guides
        chosen = self._chosen_guides(guides, scales, num_samples)
        if not chosen:
            return None
        targets, weights = (
            torch.tensor(rows, device=self.device).T
            for rows in zip(*((each.targets, each.scales) for each in chosen.values()), strict=True)
        )
        leading = [self.text_guides[name].guide.to(self.device) for name in chosen]
        return GuideTargets(leading, targets, weights)

    def _chosen_guides(
        self, guides: Mapping[str, Any] | None, scales: Mapping[str, Any] | None, num_samples: int
    ) -> dict[str, Chosen]:
        """`check_guides`, after the guide ``length`` was learned if it is asked for and not known."""
        if isinstance(guides, Mapping) and LENGTH in guides:
            self._check_length_guide()
        with as_config_errors():
            chosen = check_guides(self.guides(), guides, scales, num_samples)
        if LENGTH in chosen and LENGTH not in self.text_guides:
            self.learn_length()
        return chosen

    def _guide_scores(
        self, texts: Sequence[str], guides: Guides | None, scales: Mapping[str, Any] | None
    ) -> Tensor:
        """Sum (B,) over the guides of the log-probability that a text's words are as it was led to be.

        Of a negative weight it is that of being otherwise; of a number there is none.
        """
        total = torch.zeros(len(texts))
        if isinstance(guides, GuideTargets):
            return total
        for name, chosen in self._chosen_guides(guides, scales, len(texts)).items():
            guide = self.text_guides[name]
            targets, weights = torch.tensor(chosen.targets), torch.tensor(chosen.scales)
            if guide.words is None:
                found = guide.of_number(self.token_counts(texts), targets)
            else:
                found = guide.log_probs(texts, targets)
            nothing = torch.zeros(())
            other = nothing if guide.classes is None else torch.log1p(-found.exp().clamp(max=1 - 1e-6))
            total += torch.where(weights > 0, found, torch.where(weights < 0, other, nothing))
        return total
