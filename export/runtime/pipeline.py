"""`OnnxTextDiffusion`: samples texts from an exported folder.

Letters: B batch, N latent positions, d latent width, M source length, K beams, V vocabulary.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import brownian, noise
from .batch_checks import check_choice, check_latents, check_memory, check_options, check_seed, sample_numbers
from .conditions import check_classes, check_sources, classes_of, sources_of
from .contexts import BlockContexts, Context, SourceContexts
from .continuation import check_no_documents, write_documents
from .decoding import DecodingRules
from .documents import MAX_NEW_TOKENS, Document, check_prompts
from .errors import RuntimeInputError
from .folder import CONFIG, read_config
from .folder_schema import GRAPHS
from .graph_checks import check_graphs
from .guidance import guided_network
from .guide_options import Chosen, check_guides
from .guides import lead_of, load_guides, rows_of
from .json_files import REMEDY
from .language_model import LanguageModel
from .levels import more_than_timesteps
from .option_checks import (
    WholeNumber,
    above_max_length,
    complaint,
    eta_of_another,
)
from .sampling import SAMPLERS, sample, step_table
from .schedules import SPACINGS, sampling_grid
from .search import decode_tokens
from .session import Session, check_providers
from .similarity import SCORE, SIMILARITIES, minimum_bayes_risk
from .text_tokenizer import TextTokenizer


class OnnxTextDiffusion:
    """Samples texts as `ld4lg_fast.TextDiffusionPipeline` does, from the same random numbers.

    Args:
        folder: written by ``ld4lg export``.
        providers: of onnxruntime; None is CUDA if available, else the CPU.
        threads: of the CPU; None is onnxruntime's choice.

    Raises:
        RuntimeInputError: a folder that is damaged, changed or not an exported one, an onnxruntime that is too old, or
            a provider that is not available.
    """

    def __init__(
        self, folder: Path | str, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        most = max(8, 4 * (os.cpu_count() or 1))  # every graph has as many threads
        if threads is not None and (sentence := complaint("threads", threads, WholeNumber(1, most))):
            raise RuntimeInputError(sentence)
        folder = Path(folder)
        names = check_providers(providers)
        self.config = read_config(folder)
        load = partial(Session, folder, providers=names, threads=threads)
        graphs = {name: load(name) for name in self.config.graphs}
        self._vocabulary = check_graphs(self.config, graphs)
        try:
            self.config.generation.check_vocabulary(self._vocabulary)
        except RuntimeInputError as error:
            raise RuntimeInputError(
                f"{folder / CONFIG} is damaged: generation.{str(error)[:-1]}; {REMEDY}."
            ) from error
        self._guides = load_guides(folder, self.config)
        self._denoiser, *decoder = (graphs[name] for name in GRAPHS)
        self._decoder = decoder[0], decoder[1], decoder[2]
        tokenizer = partial(TextTokenizer, folder, self.config.tokenizer, self._vocabulary)
        self.tokenizer = tokenizer()
        if source := self.config.source:
            pad = self.config.generation.pad_token
            self._sources = SourceContexts(graphs["source"], tokenizer(limit=source.max_len), pad)
        if self.config.documents:
            tokenizers = self.tokenizer, tokenizer(limit=self.config.max_len)
            self._blocks = BlockContexts(self.config, graphs["encoder"], graphs["context"], *tokenizers)

    def __call__(
        self,
        num_samples: int | None = None,
        *,
        prompt: str | Sequence[str] | None = None,
        max_new_tokens: int | None = None,
        class_id: int | Sequence[int] | None = None,
        class_name: str | None = None,
        source: str | Sequence[str] | None = None,
        quality: str = "paper",
        num_inference_steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guides: Mapping[str, Any] | None = None,
        guide_scales: Mapping[str, Any] | None = None,
        seed: int = 0,
        batch_size: int = 64,
        on_texts: Callable[[list[str]], None] | None = None,
        **decoding: Any,
    ) -> list[str]:
        """Samples texts; the same seed gives the same texts at any batch size.

        Args:
            num_samples: None is one, or one for each prompt.
            prompt, max_new_tokens: of a model that writes documents: the text that every sample goes on with, or one
                for each, and the most tokens that are added (None: 512). The result is what was added.
            class_id, class_name: of a class-conditional model, one class or an id for each sample.
            source: of a sequence-to-sequence model, one text or one for each sample.
            quality: ``paper`` (as published), ``balanced`` or ``draft``: presets of the next three.
            num_inference_steps: network evaluations. sampler: a name in `sampling.SAMPLERS`. spacing of the steps:
                one of `schedules.SPACINGS`.
            eta: in [0, 1], of the sampler ``ddim`` alone: 0, which None stands for, is deterministic, 1 ancestral
                sampling.
            guidance_scale: None is 2 with a source and 1 without. guidance_interval: the times, 1 noise and 0 data,
                between which there is guidance.
            guides, guide_scales: classes or numbers by names, and weights, or lists of them; as in the package.
            on_texts: called with the texts of every batch when they are decoded.
            decoding: fields of `DecodingRules`, e.g. ``strategy="greedy"``.

        Raises:
            RuntimeInputError: an option out of range, or a condition that the model does not have.
        """
        most = MAX_NEW_TOKENS if max_new_tokens is None else max_new_tokens
        check_options(batch_size=batch_size, seed=seed, max_new_tokens=most)
        if num_samples is not None:
            check_options(num_samples=num_samples)
        check_no_documents(self.config.documents, prompt=prompt, max_new_tokens=max_new_tokens)
        prompts, num_samples = check_prompts(prompt, num_samples)
        num_inference_steps, sampler, spacing = self.plan(quality, num_inference_steps, sampler, spacing)
        rules = self.rules(**decoding)
        check_memory(self.config.diffusion, rules, self._vocabulary, min(batch_size, num_samples))
        sources = check_sources(self.config.source is not None, source, num_samples)
        classes = check_classes(self.config.statistics.class_names or (), class_id, class_name, num_samples)
        chosen = check_guides(self.guides(), guides, guide_scales, num_samples)
        texts: list[str] = []
        for start in range(0, num_samples, batch_size):
            ids = np.arange(start, min(start + batch_size, num_samples))
            options: dict[str, Any] = {
                "class_ids": classes_of(self.config, classes, seed, ids),
                "num_inference_steps": num_inference_steps,
                "sampler": sampler,
                "spacing": spacing,
                "eta": eta,
                "guidance_scale": guidance_scale,
                "guidance_interval": guidance_interval,
                "guides": rows_of(chosen, ids.tolist()),
            }
            try:
                if self.config.documents:
                    own = prompts * len(ids) if len(prompts) == 1 else prompts[ids[0] : ids[-1] + 1]
                    written = write_documents(self, self._blocks, own, most, rules, seed, ids, **options)
                else:
                    latents, mask = self.sample(ids, sources=sources_of(sources, ids), seed=seed, **options)
                    written = self.decode(latents, mask, rules, seed, ids)
            except MemoryError as error:
                raise RuntimeInputError(
                    f"The memory does not hold a batch of {len(ids)} samples; ask for a smaller batch_size."
                ) from error
            texts += written
            if on_texts is not None:
                on_texts(written)
        return texts

    def guides(self) -> dict[str, tuple[str, ...] | None]:
        """Names of the guides and of their classes; None for a guide of a number."""
        return {name: entry.classes for name, entry in (self.config.guides or {}).items()}

    def sample(
        self,
        sample_ids: np.ndarray,
        *,
        class_ids: np.ndarray | None = None,
        sources: Sequence[str] | None = None,
        documents: Sequence[Document] | None = None,
        num_inference_steps: int = 250,
        sampler: str | None = None,
        spacing: str = "time",
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        guides: Mapping[str, Chosen] | None = None,
        seed: noise.Seed = 0,
        on_step: Callable[[int, np.ndarray, np.ndarray | None], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents (B, N, d) of one batch and, in recipe v1, the mask (B, N) of their real positions.

        ``documents``: of a model that writes them, what there is of each before the block; ``guides``: `check_guides`.
        ``on_step(step, latents, mask)`` is called after every step, from 1, with the predicted latents.
        """
        diffusion = self.config.diffusion
        scale = diffusion.guidance_scale if guidance_scale is None else guidance_scale
        check_seed(seed)
        check_options(
            num_inference_steps=num_inference_steps,
            guidance_scale=scale,
            guidance_interval=guidance_interval,
            eta=0.0 if eta is None else eta,
        )
        sampler = diffusion.sampler if sampler is None else sampler
        if sentence := eta_of_another(eta, sampler):
            raise RuntimeInputError(sentence)
        sample_ids = sample_numbers(sample_ids)
        timesteps = len(diffusion.schedule.alphas_cumprod or ())
        if timesteps and (sentence := more_than_timesteps(num_inference_steps, timesteps)):
            raise RuntimeInputError(sentence)
        if scale != 1.0 and class_ids is None and sources is None and documents is None:
            raise RuntimeInputError(
                f"guidance_scale {scale} needs a model with classes, source texts or documents; use 1."
            )
        low, high = guidance_interval
        shape, width = (diffusion.num_latents, diffusion.dim_latent), diffusion.num_latents
        mask: np.ndarray | None = None
        if diffusion.has_mask:
            counts = self.config.statistics.length_counts
            lengths = noise.draw((0, *counts[1:]), seed, sample_ids, noise.LENGTH_STREAM)
            width = int(lengths.max())  # padded to the longest text of the batch
            mask = np.arange(width) < lengths[:, None]

        def fresh(stream: int) -> np.ndarray:
            return noise.philox_normal(seed, sample_ids, stream, shape)[:, :width]

        grid = sampling_grid(diffusion.schedule.levels(), num_inference_steps, spacing)
        scales = [scale if low <= time <= high else 1.0 for time in grid.times[:-1].tolist()]
        table = step_table(sampler, grid, diffusion.objective, eta or 0.0)
        context: Context = {}
        if sources is not None:
            context = self._sources(sources)
        elif documents is not None:
            context = self._blocks(documents)
        given = {"mask": mask, "class_id": class_ids}
        conditions = context | {name: value for name, value in given.items() if value is not None}
        network = guided_network(diffusion, self._denoiser, grid, scales, conditions)

        def unnormalized(x: np.ndarray) -> np.ndarray:
            return x * np.float32(diffusion.divisor) + np.array(diffusion.mean, np.float32)

        def report(step: int, x_start: np.ndarray) -> None:
            if on_step is not None:
                on_step(step, unnormalized(x_start), mask)

        lead = lead_of(self._guides, guides, grid.log_snr[:-1], mask)
        start = fresh(noise.START_STREAM)
        steps = brownian.path_noise(brownian.step_noise(num_inference_steps, spacing), fresh)
        latents = sample(table, network, start, steps, diffusion.project, lead, report)
        return unnormalized(latents), mask

    def decode(
        self,
        latents: np.ndarray,
        mask: np.ndarray | None = None,
        rules: DecodingRules | None = None,
        seed: noise.Seed = 0,
        sample_ids: np.ndarray | None = None,
    ) -> list[str]:
        """Texts of latents (B, N, d) and their mask; ``seed`` and ``sample_ids`` are for nucleus sampling.

        Raises:
            RuntimeInputError: latents of another shape than the model's, or not finite.
        """
        tokens = self.decode_tokens(latents, mask, rules, seed, sample_ids)
        return self.tokenizer.decode(tokens)

    def decode_tokens(
        self,
        latents: np.ndarray,
        mask: np.ndarray | None = None,
        rules: DecodingRules | None = None,
        seed: noise.Seed = 0,
        sample_ids: np.ndarray | None = None,
        prefix: np.ndarray | None = None,
    ) -> list[list[int]]:
        """Token ids of texts, special ones removed; arguments as in `decode`.

        ``prefix`` (B, P): tokens that the decoder reads before those that it writes; the result is without them.
        """
        check_latents(self.config.diffusion, latents, mask)
        check_seed(seed)
        rules = self.rules() if rules is None else rules
        num_prefix = 0 if prefix is None else prefix.shape[1]
        rules = rules.after(num_prefix)
        decodes, beams = rules.num_decodes, rules.num_beams if rules.strategy == "beam" else 1
        uniform: np.ndarray | None = None
        if rules.strategy == "nucleus":
            ids = np.arange(len(latents)) if sample_ids is None else sample_numbers(sample_ids)
            streams = [noise.TOKEN_STREAM + number for number in range(decodes)]
            drawn = [noise.uniforms(seed, ids, stream, rules.max_length) for stream in streams]
            uniform = np.stack(drawn, axis=1).reshape(-1, rules.max_length)
        # Decodes of a latent are consecutive rows.
        latents = np.repeat(latents, decodes, axis=0)
        mask = None if mask is None else np.repeat(mask, decodes, axis=0)
        decoder = LanguageModel(*self._decoder, latents, mask, beams)
        prefix = None if prefix is None else np.repeat(prefix, decodes, axis=0)
        found, scores = decode_tokens(decoder, len(latents), rules, uniform, prefix)
        tokens = self.tokenizer.without_special(found[:, 1 + num_prefix :].tolist())
        if decodes == 1:
            return tokens
        groups = [slice(first, first + decodes) for first in range(0, len(tokens), decodes)]
        if rules.choose_decode == SCORE:
            return [tokens[group][scores[group].argmax()] for group in groups]
        similarity, texts = SIMILARITIES[rules.choose_decode], self.tokenizer.decode(tokens)
        return [tokens[group][minimum_bayes_risk(texts[group], similarity)] for group in groups]

    def rules(self, **decoding: Any) -> DecodingRules:
        """This model's decoding rules, with the given fields of `DecodingRules` replaced."""
        unknown = decoding.keys() - DecodingRules.__dataclass_fields__.keys()
        if unknown:
            known = ", ".join(DecodingRules.__dataclass_fields__)
            raise RuntimeInputError(f"There is no option {sorted(unknown)[0]!r}; decoding has {known}.")
        own, limit = self.config.generation, self.config.max_len
        if "max_length" not in decoding:
            sentence = above_max_length(decoding.get("min_length"), own.max_length)
            if sentence is not None:
                raise RuntimeInputError(sentence)
        rules = replace(own, **decoding)
        if rules.max_length > limit + 1:
            raise RuntimeInputError(
                f"max_length {rules.max_length} exceeds the {limit} tokens that this model handles."
            )
        rules.check_vocabulary(self._vocabulary)
        return rules

    def plan(
        self, quality: str, num_inference_steps: int | None, sampler: str | None, spacing: str | None
    ) -> tuple[int, str, str]:
        """Steps, sampler and spacing: the given ones, else the preset's, else the recipe's."""
        check_choice("quality", quality, self.config.qualities)
        preset = self.config.qualities[quality]
        if sampler is None:
            sampler = self.config.diffusion.sampler if preset.sampler is None else preset.sampler
        spacing = preset.spacing if spacing is None else spacing
        check_choice("sampler", sampler, SAMPLERS)
        check_choice("spacing", spacing, SPACINGS)
        return preset.num_steps if num_inference_steps is None else num_inference_steps, sampler, spacing
