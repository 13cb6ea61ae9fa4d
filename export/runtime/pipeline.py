"""`OnnxTextDiffusion`: an exported folder as one object that writes text.

Letters: B batch, N latent positions, d latent width, M source length, K beams, V vocabulary.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from . import noise
from .choice import SIMILARITIES, most_like_the_others
from .decoding import DecodingRules
from .errors import RuntimeInputError
from .folder import Feeds, Session, check_providers, read_config
from .language_model import LanguageModel
from .sampling import Network, sample, step_table
from .schedules import SamplingGrid, sampling_grid
from .search import decode_tokens


class OnnxTextDiffusion:
    """Samples texts as `ld4lg_fast.TextDiffusionPipeline` does, from the same random numbers.

    Args:
        folder: what ``ld4lg export`` wrote.
        providers: of onnxruntime; None takes CUDA where this onnxruntime has it, else the CPU.
        threads: of the CPU; None leaves it to onnxruntime.

    Raises:
        RuntimeInputError: a folder that is foreign or damaged, an onnxruntime that is too old, a provider
            that is not there.
    """

    def __init__(
        self, folder: Path | str, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        folder = Path(folder)
        self.config = read_config(folder)
        names = check_providers(providers)
        load = partial(Session, folder, providers=names, threads=threads)
        self._denoiser = load("denoiser")
        self._decoder = [load(name) for name in ("latents", "decoder", "cache")]
        self._source = load("source") if self.config["source"] else None
        self._tokenizer = self._load_tokenizer(folder / "tokenizer.json")
        if self._source is not None:
            self._sources_to_ids = self._load_tokenizer(folder / "tokenizer.json")
            self._sources_to_ids.enable_truncation(self.config["source"]["max_len"])

    def _load_tokenizer(self, path: Path) -> Tokenizer:
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exceptions
            raise RuntimeInputError(f"{path} cannot be read ({error}).") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = self.config["tokenizer"]["encode_special_tokens"]
        return tokenizer

    def __call__(
        self,
        num_samples: int = 1,
        *,
        class_id: int | Sequence[int] | None = None,
        class_name: str | None = None,
        source: str | Sequence[str] | None = None,
        quality: str = "paper",
        steps: int | None = None,
        sampler: str | None = None,
        spacing: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
        batch_size: int = 64,
        **decoding,
    ) -> list[str]:
        """Samples texts; the same seed gives the same texts whatever the batch size.

        Args:
            class_id, class_name: of a class-conditional model, one class or an id for each sample.
            source: of a sequence-to-sequence model, one text or one for each sample.
            quality: ``paper`` (as published), ``balanced`` or ``draft``: presets of the next three.
            steps: network evaluations. sampler: a name in `sampling.SAMPLERS`. spacing of the steps: one of
                `schedules.SPACINGS`.
            guidance_scale: None is 2 with a source and 1 without. guidance_interval: the times, 1 noise and 0 data,
                between which there is guidance.
            decoding: fields of `DecodingRules`, e.g. ``strategy="greedy"``.

        Raises:
            RuntimeInputError: an option out of range, or a condition that the model does not have.
        """
        steps, sampler, spacing = self._plan(quality, steps, sampler, spacing)
        for name, value in (("num_samples", num_samples), ("steps", steps), ("batch_size", batch_size)):
            if value < 1:
                raise RuntimeInputError(f"{name} is {value}; it must be at least 1.")
        if not 0 <= seed < 2**64:
            raise RuntimeInputError(f"seed {seed} must be in 0 … 2**64-1.")
        rules = self.rules(**decoding)
        ids = np.arange(num_samples)
        sources = self._sources(source, num_samples)
        class_ids = self._class_ids(class_id, class_name, seed, ids)
        texts: list[str] = []
        for start in range(0, num_samples, batch_size):
            rows = slice(start, start + batch_size)
            latents, mask = self.sample(
                ids[rows],
                class_ids=None if class_ids is None else class_ids[rows],
                sources=None if sources is None else sources[rows],
                steps=steps,
                sampler=sampler,
                spacing=spacing,
                guidance_scale=guidance_scale,
                guidance_interval=guidance_interval,
                seed=seed,
            )
            texts += self.decode(latents, mask, rules, seed, ids[rows])
        return texts

    def sample(
        self,
        sample_ids: np.ndarray,
        *,
        class_ids: np.ndarray | None = None,
        sources: Sequence[str] | None = None,
        steps: int = 250,
        sampler: str | None = None,
        spacing: str = "time",
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents (B, N, d) of one batch and, in recipe v1, the mask (B, N) of their real positions."""
        diffusion = self.config["diffusion"]
        limit = len(diffusion["schedule"].get("alphas_cumprod", ())) or None
        if limit and steps > limit:
            raise RuntimeInputError(
                f"{steps} steps were asked for, but this model was trained with {limit}; ask for at most that many."
            )
        scale = diffusion["guidance_scale"] if guidance_scale is None else guidance_scale
        if scale != 1.0 and class_ids is None and sources is None:
            raise RuntimeInputError(
                f"guidance_scale {scale} needs a class-conditional or sequence-to-sequence model; use 1."
            )
        low, high = guidance_interval
        if not 0 <= low <= high <= 1:
            raise RuntimeInputError(
                f"guidance_interval is ({low}, {high}); it needs 0 <= first <= second <= 1."
            )
        shape = (diffusion["num_latents"], diffusion["dim_latent"])
        mask = None
        if diffusion["has_mask"]:
            counts = self.config["statistics"]["length_counts"]
            lengths = noise.draw((0, *counts[1:]), seed, sample_ids, noise.LENGTH_STREAM)
            mask = np.arange(shape[0]) < lengths[:, None]
        # Padding is computed only as far as the batch's longest text goes.
        width = shape[0] if mask is None else int(lengths.max())

        def fresh(stream: int) -> np.ndarray:
            return noise.philox_normal(seed, sample_ids, stream, shape)[:, :width]

        grid = sampling_grid(diffusion["schedule"], steps, spacing)
        scales = [scale if low <= time <= high else 1.0 for time in grid.times[:-1]]
        table = step_table(sampler or diffusion["sampler"], grid, diffusion["objective"])
        conditions = self._conditions(None if mask is None else mask[:, :width], class_ids, sources)
        network = self._guided(grid, scales, conditions)
        latents = sample(
            table, network, fresh(noise.START_STREAM), lambda step: fresh(1 + step), diffusion["project"]
        )
        latents = latents * np.float32(diffusion["divisor"]) + np.float32(diffusion["mean"])
        return latents, None if mask is None else mask[:, :width]

    def decode(
        self,
        latents: np.ndarray,
        mask: np.ndarray | None = None,
        rules: DecodingRules | None = None,
        seed: int = 0,
        sample_ids: np.ndarray | None = None,
    ) -> list[str]:
        """Texts of latents (B, N, d) and their mask; ``seed`` and ``sample_ids`` are nucleus sampling's."""
        rules = rules or self.rules()
        decodes, beams = rules.num_decodes, rules.num_beams if rules.strategy == "beam" else 1
        uniform = None
        if rules.strategy == "nucleus":
            ids = np.arange(len(latents)) if sample_ids is None else sample_ids
            streams = [noise.TOKEN_STREAM + number for number in range(decodes)]
            uniform = [noise.uniforms(seed, ids, stream, rules.max_length) for stream in streams]
            uniform = np.stack(uniform, axis=1).reshape(-1, rules.max_length)
        # The decodes of a latent stand side by side.
        latents, mask = (None if x is None else np.repeat(x, decodes, axis=0) for x in (latents, mask))
        decoder = LanguageModel(*self._decoder, latents, mask, beams)
        tokens, scores = decode_tokens(decoder, len(latents), rules, uniform)
        special = set(self.config["tokenizer"]["special_ids"])
        rows = [[token for token in row if token not in special] for row in tokens.tolist()]
        decoded = self._tokenizer.decode_batch(rows, skip_special_tokens=True)
        texts = [text.strip() for text in decoded]
        if decodes == 1:
            return texts
        groups = [slice(first, first + decodes) for first in range(0, len(texts), decodes)]
        if rules.choose_decode == "score":
            return [texts[group][scores[group].argmax()] for group in groups]
        similarity = SIMILARITIES[rules.choose_decode]
        return [texts[group][most_like_the_others(texts[group], similarity)] for group in groups]

    def rules(self, **decoding) -> DecodingRules:
        """This model's decoding rules, with the given fields of `DecodingRules` in place of its own."""
        limit = self.config["max_len"]
        settings = {"max_length": limit} | self.config["generation"] | decoding
        unknown = decoding.keys() - DecodingRules.__dataclass_fields__.keys()
        if unknown:
            known = ", ".join(DecodingRules.__dataclass_fields__)
            raise RuntimeInputError(f"There is no option {sorted(unknown)[0]!r}; decoding has {known}.")
        if settings["max_length"] > limit + 1:
            raise RuntimeInputError(
                f"max_length {settings['max_length']} exceeds the {limit} tokens that this model handles."
            )
        return DecodingRules(**settings | {"eos_tokens": tuple(settings["eos_tokens"])})

    def _plan(
        self, quality: str, steps: int | None, sampler: str | None, spacing: str | None
    ) -> tuple[int, str, str]:
        """Steps, sampler and spacing: the given ones, else the preset's, else the recipe's."""
        qualities = self.config["qualities"]
        if quality not in qualities:
            raise RuntimeInputError(f"Unknown quality {quality!r}; choose one of {', '.join(qualities)}.")
        preset = qualities[quality]
        chosen = sampler or preset["sampler"] or self.config["diffusion"]["sampler"]
        return preset["num_steps"] if steps is None else steps, chosen, spacing or preset["spacing"]

    def _conditions(
        self, mask: np.ndarray | None, class_ids: np.ndarray | None, sources: Sequence[str] | None
    ) -> dict[str, np.ndarray]:
        """The denoiser's inputs that stay the same through all steps."""
        conditions = {} if mask is None else {"mask": mask}
        if class_ids is not None:
            conditions["class_id"] = class_ids
        return conditions if sources is None else conditions | self._encode(sources)

    def _guided(self, grid: SamplingGrid, scales: list[float], conditions: dict[str, np.ndarray]) -> Network:
        """The network as `sample` sees it: guidance is one doubled batch, its second half without condition; steps
        whose scale is 1 have none."""
        diffusion, graph = self.config["diffusion"], self._denoiser
        plain: Feeds = {name: graph.place(value) for name, value in conditions.items()}
        both: Feeds = {}
        if any(scale != 1.0 for scale in scales):
            doubled = {name: np.concatenate([value, value]) for name, value in conditions.items()}
            for name, without in (("class_id", diffusion["num_classes"]), ("has_source", False)):
                if name in doubled:
                    doubled[name][len(doubled[name]) // 2 :] = without
            both = {name: graph.place(value) for name, value in doubled.items()}

        def network(z_t: np.ndarray, step: int, x_self_cond: np.ndarray | None) -> np.ndarray:
            scale = np.float32(scales[step])
            copies = 1 if scale == 1 else 2
            rows = copies * len(z_t) if diffusion["class_modulates"] else 1
            feeds = dict(plain if copies == 1 else both)
            feeds["z_t"] = np.tile(z_t, (copies, 1, 1))
            feeds["time"] = np.full(rows, grid.network_time[step], np.float32)
            if diffusion["self_condition"]:
                known = x_self_cond is not None
                feeds["x_self_cond"] = np.tile(x_self_cond if known else np.zeros_like(z_t), (copies, 1, 1))
                feeds["has_self_cond"] = np.array([known])
            output = graph.run(feeds, host=("output",))["output"].numpy()
            if copies == 1:
                return output
            cond, uncond = np.split(output, 2)
            return scale * cond + (1 - scale) * uncond

        return network

    def _encode(self, sources: Sequence[str]) -> dict[str, np.ndarray]:
        """What the denoiser attends to, of source texts; equal texts are encoded once."""
        distinct = {text: index for index, text in enumerate(dict.fromkeys(sources))}
        rows = [encoding.ids for encoding in self._sources_to_ids.encode_batch(list(distinct))]
        lengths = np.array([len(row) for row in rows])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.config["generation"]["pad_token"], np.int64)
        ids[mask] = np.concatenate(rows)
        outputs = self._source.run({"input_ids": ids, "attention_mask": mask}, host=self._source.outputs)
        index = [distinct[text] for text in sources]
        encoded = {name: value.numpy()[index] for name, value in outputs.items()}
        return encoded | {"source_mask": mask[index], "has_source": np.ones(len(sources), bool)}

    def _sources(self, source: str | Sequence[str] | None, num_samples: int) -> list[str] | None:
        if (source is None) != (self._source is None):
            raise RuntimeInputError(
                "A source text was given, but this model was trained without source texts."
                if self._source is None
                else "This model writes from a source text; give source=..., or --source on the command line."
            )
        if source is None:
            return None
        sources = [source] * num_samples if isinstance(source, str) else list(source)
        if len(sources) != num_samples or not all(text.strip() for text in sources):
            raise RuntimeInputError(
                f"There are {len(sources)} sources for {num_samples} samples; give one for each, none blank."
            )
        return sources

    def _class_ids(
        self, class_id: int | Sequence[int] | None, class_name: str | None, seed: int, ids: np.ndarray
    ) -> np.ndarray | None:
        count, names = self.config["diffusion"]["num_classes"], self.config["statistics"]["class_names"]
        if not count:
            if class_id is not None or class_name is not None:
                raise RuntimeInputError("A class was given, but this model was trained without classes.")
            return None
        if class_id is not None and class_name is not None:
            raise RuntimeInputError("class_id and class_name exclude each other; give one of them.")
        known = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        if class_name is not None:
            folded = [name.casefold() for name in names]
            if class_name.casefold() not in folded:
                raise RuntimeInputError(
                    f"There is no class {class_name!r}; this model has the classes {known}."
                )
            class_id = folded.index(class_name.casefold())
        if class_id is None:
            if self.config["diffusion"]["default_class"] is not None:
                return np.full(len(ids), self.config["diffusion"]["default_class"])
            counts = self.config["statistics"]["class_counts"] or [1] * count
            return noise.draw(counts, seed, ids, noise.CLASS_STREAM)
        chosen = np.asarray(class_id)
        if chosen.dtype.kind not in "iu" or chosen.shape not in ((), ids.shape):
            raise RuntimeInputError(f"class_id {class_id!r} must be an integer, or {len(ids)} of them.")
        wrong = chosen[(chosen < 0) | (chosen >= count)]
        if wrong.size:
            raise RuntimeInputError(
                f"class_id {wrong.flat[0]} is out of range; this model has the classes {known}."
            )
        return np.broadcast_to(chosen, ids.shape).astype(np.int64)
