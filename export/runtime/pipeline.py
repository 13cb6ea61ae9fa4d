"""`OnnxTextDiffusion`: samples texts from an exported folder.

Letters: B batch, N latent positions, d latent width, M source length, K beams, V vocabulary.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import noise
from .batch_checks import check_latents, check_memory, sample_numbers
from .conditions import check_classes, check_sources, classes_of, sources_of
from .decoding import DecodingRules
from .errors import RuntimeInputError
from .folder import CONFIG, read_config
from .folder_schema import GRAPHS
from .graph_checks import check_graphs
from .json_files import REMEDY
from .language_model import LanguageModel
from .levels import more_than_timesteps
from .option_checks import Choice, WholeNumber, above_max_length, complaint, eta_of_another, first_complaint
from .sampling import SAMPLERS, Network, sample, step_table
from .schedules import SPACINGS, SamplingGrid, sampling_grid
from .search import decode_tokens
from .session import Feeds, Session, check_providers
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
        graphs = {name: load(name) for name in (*GRAPHS, *(["source"] if self.config.source else []))}
        self._vocabulary = check_graphs(self.config, graphs)
        try:
            self.config.generation.check_vocabulary(self._vocabulary)
        except RuntimeInputError as error:
            raise RuntimeInputError(
                f"{folder / CONFIG} is damaged: generation.{str(error)[:-1]}; {REMEDY}."
            ) from error
        self._denoiser, *decoder = (graphs[name] for name in GRAPHS)
        self._decoder = decoder[0], decoder[1], decoder[2]
        tokenizer = partial(TextTokenizer, folder, self.config.tokenizer, self._vocabulary)
        self._tokenizer = tokenizer()
        if self.config.source:
            self._source, self._sources_to_ids = graphs["source"], tokenizer(limit=self.config.source.max_len)

    def __call__(
        self,
        num_samples: int = 1,
        *,
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
        seed: int = 0,
        batch_size: int = 64,
        on_texts: Callable[[list[str]], None] | None = None,
        **decoding: Any,
    ) -> list[str]:
        """Samples texts; the same seed gives the same texts at any batch size.

        Args:
            class_id, class_name: of a class-conditional model, one class or an id for each sample.
            source: of a sequence-to-sequence model, one text or one for each sample.
            quality: ``paper`` (as published), ``balanced`` or ``draft``: presets of the next three.
            num_inference_steps: network evaluations. sampler: a name in `sampling.SAMPLERS`. spacing of the steps:
                one of `schedules.SPACINGS`.
            eta: in [0, 1], of the sampler ``ddim`` alone: 0, which None stands for, is deterministic, 1 ancestral
                sampling.
            guidance_scale: None is 2 with a source and 1 without. guidance_interval: the times, 1 noise and 0 data,
                between which there is guidance.
            on_texts: called with the texts of every batch when they are decoded.
            decoding: fields of `DecodingRules`, e.g. ``strategy="greedy"``.

        Raises:
            RuntimeInputError: an option out of range, or a condition that the model does not have.
        """
        _check(num_samples=num_samples, batch_size=batch_size, seed=seed)
        num_inference_steps, sampler, spacing = self._plan(quality, num_inference_steps, sampler, spacing)
        rules = self.rules(**decoding)
        check_memory(self.config.diffusion, rules, self._vocabulary, min(batch_size, num_samples))
        sources = check_sources(self.config.source is not None, source, num_samples)
        classes = check_classes(self.config.statistics.class_names or (), class_id, class_name, num_samples)
        texts: list[str] = []
        for start in range(0, num_samples, batch_size):
            ids = np.arange(start, min(start + batch_size, num_samples))
            try:
                latents, mask = self.sample(
                    ids,
                    class_ids=classes_of(self.config, classes, seed, ids),
                    sources=sources_of(sources, ids),
                    num_inference_steps=num_inference_steps,
                    sampler=sampler,
                    spacing=spacing,
                    eta=eta,
                    guidance_scale=guidance_scale,
                    guidance_interval=guidance_interval,
                    seed=seed,
                )
                written = self.decode(latents, mask, rules, seed, ids)
            except MemoryError as error:
                raise RuntimeInputError(
                    f"The memory does not hold a batch of {len(ids)} samples; ask for a smaller batch_size."
                ) from error
            texts += written
            if on_texts is not None:
                on_texts(written)
        return texts

    def sample(
        self,
        sample_ids: np.ndarray,
        *,
        class_ids: np.ndarray | None = None,
        sources: Sequence[str] | None = None,
        num_inference_steps: int = 250,
        sampler: str | None = None,
        spacing: str = "time",
        eta: float | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents (B, N, d) of one batch and, in recipe v1, the mask (B, N) of their real positions."""
        diffusion = self.config.diffusion
        scale = diffusion.guidance_scale if guidance_scale is None else guidance_scale
        _check(
            seed=seed,
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
        if scale != 1.0 and class_ids is None and sources is None:
            raise RuntimeInputError(
                f"guidance_scale {scale} needs a class-conditional or sequence-to-sequence model; use 1."
            )
        low, high = guidance_interval
        shape = (diffusion.num_latents, diffusion.dim_latent)
        mask = None
        if diffusion.has_mask:
            counts = self.config.statistics.length_counts
            lengths = noise.draw((0, *counts[1:]), seed, sample_ids, noise.LENGTH_STREAM)
            mask = np.arange(shape[0]) < lengths[:, None]
        # Padded to the longest text of the batch.
        width = shape[0] if mask is None else int(lengths.max())

        def fresh(stream: int) -> np.ndarray:
            return noise.philox_normal(seed, sample_ids, stream, shape)[:, :width]

        grid = sampling_grid(diffusion.schedule.levels(), num_inference_steps, spacing)
        scales = [scale if low <= time <= high else 1.0 for time in grid.times[:-1].tolist()]
        table = step_table(sampler, grid, diffusion.objective, eta or 0.0)
        conditions = self._conditions(None if mask is None else mask[:, :width], class_ids, sources)
        network = self._guided(grid, scales, conditions)
        latents = sample(
            table, network, fresh(noise.START_STREAM), lambda step: fresh(1 + step), diffusion.project
        )
        latents = latents * np.float32(diffusion.divisor) + np.array(diffusion.mean, np.float32)
        return latents, None if mask is None else mask[:, :width]

    def decode(
        self,
        latents: np.ndarray,
        mask: np.ndarray | None = None,
        rules: DecodingRules | None = None,
        seed: int = 0,
        sample_ids: np.ndarray | None = None,
    ) -> list[str]:
        """Texts of latents (B, N, d) and their mask; ``seed`` and ``sample_ids`` are for nucleus sampling.

        Raises:
            RuntimeInputError: latents of another shape than the model's, or not finite.
        """
        check_latents(self.config.diffusion, latents, mask)
        _check(seed=seed)
        rules = self.rules() if rules is None else rules
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
        tokens, scores = decode_tokens(decoder, len(latents), rules, uniform)
        texts = self._tokenizer.decode(tokens.tolist())
        if decodes == 1:
            return texts
        groups = [slice(first, first + decodes) for first in range(0, len(texts), decodes)]
        if rules.choose_decode == SCORE:
            return [texts[group][scores[group].argmax()] for group in groups]
        similarity = SIMILARITIES[rules.choose_decode]
        return [texts[group][minimum_bayes_risk(texts[group], similarity)] for group in groups]

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

    def _plan(
        self, quality: str, num_inference_steps: int | None, sampler: str | None, spacing: str | None
    ) -> tuple[int, str, str]:
        """Steps, sampler and spacing: the given ones, else the preset's, else the recipe's."""
        _check_choice("quality", quality, self.config.qualities)
        preset = self.config.qualities[quality]
        if sampler is None:
            sampler = self.config.diffusion.sampler if preset.sampler is None else preset.sampler
        spacing = preset.spacing if spacing is None else spacing
        _check_choice("sampler", sampler, SAMPLERS)
        _check_choice("spacing", spacing, SPACINGS)
        return preset.num_steps if num_inference_steps is None else num_inference_steps, sampler, spacing

    def _conditions(
        self, mask: np.ndarray | None, class_ids: np.ndarray | None, sources: Sequence[str] | None
    ) -> dict[str, np.ndarray]:
        """The denoiser's inputs that are constant over all steps."""
        conditions = {} if mask is None else {"mask": mask}
        if class_ids is not None:
            conditions["class_id"] = class_ids
        return conditions if sources is None else conditions | self._encode(sources)

    def _guided(self, grid: SamplingGrid, scales: list[float], conditions: dict[str, np.ndarray]) -> Network:
        """The network for `sample`; guided steps (scale not 1) run a doubled batch, its second half unconditional."""
        diffusion, graph = self.config.diffusion, self._denoiser
        plain: Feeds = {name: graph.place(value) for name, value in conditions.items()}
        both: Feeds = {}
        if any(scale != 1.0 for scale in scales):
            doubled = {name: np.concatenate([value, value]) for name, value in conditions.items()}
            for name, without in (("class_id", diffusion.num_classes), ("has_source", False)):
                if name in doubled:
                    doubled[name][len(doubled[name]) // 2 :] = without
            both = {name: graph.place(value) for name, value in doubled.items()}

        def network(z_t: np.ndarray, step: int, x_self_cond: np.ndarray | None) -> np.ndarray:
            scale = np.float32(scales[step])
            copies = 1 if scale == 1 else 2
            rows = copies * len(z_t) if diffusion.class_modulates else 1
            feeds = dict(plain if copies == 1 else both)
            feeds["z_t"] = np.tile(z_t, (copies, 1, 1))
            feeds["time"] = np.full(rows, grid.network_time[step], np.float32)
            if diffusion.self_condition:
                known = np.zeros_like(z_t) if x_self_cond is None else x_self_cond
                feeds["x_self_cond"] = np.tile(known, (copies, 1, 1))
                feeds["has_self_cond"] = np.array([x_self_cond is not None])
            output = graph.run(feeds, {"output": feeds["z_t"].shape})["output"].numpy()
            if copies == 1:
                return output
            cond, uncond = np.split(output, 2)
            return scale * cond + (1 - scale) * uncond

        return network

    def _encode(self, sources: Sequence[str]) -> dict[str, np.ndarray]:
        """The denoiser's cross-attention inputs of source texts; equal texts are encoded once."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(sources))}
        rows = self._sources_to_ids.encode(list(distinct))
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.config.generation.pad_token, np.int64)
        ids[mask] = np.concatenate(rows)
        shapes = {name: (len(rows), *shape[1:]) for name, (_, shape) in self._source.output_signature.items()}
        outputs = self._source.run({"input_ids": ids, "attention_mask": mask}, shapes)
        index = [distinct[text] for text in sources]
        encoded = {name: value.numpy()[index] for name, value in outputs.items()}
        return encoded | {"source_mask": mask[index], "has_source": np.ones(len(sources), bool)}


def _check(**options: Any) -> None:
    """Refuses options that violate their rule in `option_checks.OPTIONS`.

    Raises:
        RuntimeInputError: about the first of them.
    """
    if sentence := first_complaint(options):
        raise RuntimeInputError(sentence)


def _check_choice(name: str, value: Any, names: Collection[str]) -> None:
    if sentence := complaint(name, value, Choice(names)):
        raise RuntimeInputError(sentence)
