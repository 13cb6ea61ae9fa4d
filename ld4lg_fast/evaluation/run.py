"""One evaluation: loads a run, samples, measures, writes the results."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from ld4lg_fast.checkpoints.files import read_json, write_json
from ld4lg_fast.checkpoints.shipped import results_folder, run_directory
from ld4lg_fast.data import tokenize_texts
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.checkpoints import load_checkpoint
from ld4lg_fast.evaluation.comparisons import Samples, named, pair_rows, reference_rows, text_rows
from ld4lg_fast.evaluation.continuations import MAX_NEW_TOKENS, choose_continuations, evaluate_continuations
from ld4lg_fast.evaluation.guides import guide_rows, read_judges
from ld4lg_fast.evaluation.metrics import evaluate_pairs, evaluate_texts
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.ngrams import TrainingNgrams
from ld4lg_fast.evaluation.options import Options
from ld4lg_fast.evaluation.references import (
    References,
    choose_references,
    load_dataset,
    other_real_texts,
    shuffled,
)
from ld4lg_fast.evaluation.report import Row, print_report, print_tolerance, versions
from ld4lg_fast.evaluation.report_latents import film, latent_map
from ld4lg_fast.evaluation.report_page import earlier_evaluations, write_page
from ld4lg_fast.evaluation.sampling import Conditions, Sampled, sample_texts
from ld4lg_fast.export.runtime.conditions import check_classes
from ld4lg_fast.options.checks import as_config_errors, choose_device, output_file
from ld4lg_fast.options.precisions import torch_dtype
from ld4lg_fast.pipeline.decode import checked_decoding
from ld4lg_fast.pipeline.documents import BlockCoder
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import resolved_generation
from ld4lg_fast.terminal.console import console
from ld4lg_fast.training.decoder_tolerance import TEXTS, measure_tolerance, with_checks


class Evaluation:
    """One test command, in each of its processes.

    Args:
        config: the groups ``infer``, ``generation``, ``evaluation`` and ``dataset`` of ``configs/test.yaml``.

    Raises:
        LD4LGError: an error that the user can correct; as much as possible is checked before sampling.
    """

    def __init__(self, config: Mapping, processes: PartialState) -> None:
        self.config, self.processes = config, processes
        infer, generation = config["infer"], dict(config["generation"])
        self.run_dir = Path(infer["output_dir"])
        self.results = results_folder(self.run_dir)
        page, given = config["evaluation"]["report"], infer["output_file"]
        self.page = None if page is None else output_file("evaluation.report", page)
        if given is not None and output_file("infer.output_file", given) == self.page:
            raise ConfigError(f"evaluation.report and infer.output_file are both {given}; name two files.")
        alone = processes.num_processes == 1
        self.device = choose_device(infer["device"]) if alone else processes.device
        self.pipe = TextDiffusionPipeline.from_pretrained(self.run_dir)
        checkpoint = infer["ckpt_path"]
        self.checkpoint = None if checkpoint is None else load_checkpoint(self.pipe, self.run_dir, checkpoint)
        # The file stores the resolved defaults.
        generation |= resolved_generation(self.pipe, generation)
        self.generation = generation
        self.options = Options.read(generation, config["evaluation"], self.pipe.model.recipe["version"])
        network = self.pipe.model.denoiser.config
        self.from_sources = self.pipe.model.is_seq2seq
        if self.options.num_candidates > 1 and not self.from_sources:
            raise ConfigError(
                f"generation.num_candidates={self.options.num_candidates} needs a sequence-to-sequence "
                "model; this one writes without a source, use 1."
            )
        conditional = self.from_sources or self.pipe.model.writes_documents or network.num_classes
        if (
            self.options.frontier
            and not conditional
            and any(scale != 1 for _, scale in self.options.frontier)
        ):
            raise ConfigError(
                "evaluation.frontier_guidance needs a class-conditional or sequence-to-sequence model; this one has no "
                "condition, leave it out."
            )
        if self.options.interpolation and self.from_sources:
            raise ConfigError(
                "evaluation.interpolation=true is for models without sources; this one writes from a source, leave it "
                "out."
            )
        names = self.pipe.statistics.class_names or ()
        with as_config_errors():
            chosen: Any = check_classes(names, generation["class_id"], generation["class_name"], 1)
        self.class_id: int | None = chosen  # one, as the options have one
        dataset = load_dataset(run_directory(infer["output_dir"]), config["dataset"])
        self.dataset = shuffled(dataset, config["evaluation"]["reference_seed"])
        self.judges = read_judges(self.pipe, config["evaluation"]["guide_data"])
        self.cache = ArrayCache(self.results / "cache")
        self.training = TrainingNgrams(self.dataset.train.texts, self.cache)
        self.from_prompts = self.pipe.model.writes_documents
        self.references = self._choose_references(network.num_classes)
        self.pipe.to(self.device, torch_dtype(infer["dtype"]))
        self.path = output_file("infer.output_file", given or self._default_path())
        for decoding in self.options.decodings.values():
            checked_decoding(decoding, decoding, self.pipe.autoencoder)
        for setting in (None, *self.options.frontier):
            self.pipe.sample_batches(1, **self._options_of_first(setting))

    def _choose_references(self, num_classes: int) -> References:
        """Real texts; of documents what follows their beginnings, which are the prompts."""
        options, most = self.options, self.generation["max_new_tokens"]
        if self.from_prompts:
            if options.interpolation:
                raise ConfigError(
                    "evaluation.interpolation=true is for models of single texts; this one writes documents, leave it "
                    "out."
                )
            writer = BlockCoder(self.pipe.autoencoder, self.pipe.model.recipe["prefix_tokens"]).writer
            self.generation["max_new_tokens"] = most = MAX_NEW_TOKENS if most is None else most
            return choose_continuations(self.dataset, options.split, options.num_samples, writer, most)
        self.pipe.check_prompt(None, most, {})
        chosen = (options.split, options.num_samples, self.class_id, num_classes, self.from_sources)
        return choose_references(self.dataset, *chosen)

    @property
    def conditions(self) -> Conditions:
        """Each sample has the class and source of its reference; candidates of a source are consecutive."""
        count = self.options.num_candidates
        if self.from_prompts:
            most = self.generation["max_new_tokens"]
            return Conditions(self.options.num_samples, prompts=self.references.sources, max_new_tokens=most)

        def repeat(column: Sequence | None) -> list | None:
            return None if column is None else [entry for entry in column for _ in range(count)]

        labels, sources = repeat(self.references.labels), repeat(self.references.sources)
        return Conditions(self.options.num_samples * count, labels, sources, scored=count > 1)

    def sample(self, seed: int, setting: tuple[int, float] | None = None) -> Sampled | None:
        """Samples of a seed, optionally with a ``setting`` of `Options.frontier`; None in all but the main process."""
        options = self._sampling_options(setting)
        return sample_texts(self.pipe, self.conditions, self.options.decodings, options, seed, self.processes)

    def _sampling_options(self, setting: tuple[int, float] | None = None) -> dict:
        names = ("sampler", "spacing", "eta", "guidance_scale", "guidance_interval", "batch_size")
        options = {name: self.generation[name] for name in (*names, "precision")}
        options["num_inference_steps"] = self.generation["num_inference_steps"]
        if setting is not None:
            options["num_inference_steps"], options["guidance_scale"] = setting
        return options

    def samples(self) -> dict[int, Sampled]:
        """Samples of every seed; empty in all but the main process."""
        return {seed: own for seed in self.options.seeds if (own := self.sample(seed))}

    def frontier(self) -> dict[tuple[int, float], Sampled]:
        """The first seed's samples with every frontier setting; empty in all but the main process."""
        first = self.options.seeds[0]
        return {each: own for each in self.options.frontier if (own := self.sample(first, each))}

    def guided(self) -> dict[tuple[str, float], list[str]]:
        """Texts of the first seed and decoding with each guide that is judged, at each weight.

        Empty in all but the main process.
        """
        found = {}
        how = dict(list(self.options.decodings.items())[:1])
        for judge in self.judges:
            led = replace(self.conditions, guides={judge.name: judge.targets(self.conditions.num_samples)})
            for weight in self.options.guide_weights:
                options = self._sampling_options() | {"guide_scales": {judge.name: weight}}
                own = sample_texts(self.pipe, led, how, options, self.options.seeds[0], self.processes)
                if own is not None:
                    found[judge.name, weight] = next(iter(own.texts.values()))
        return found

    def measure(
        self,
        sampled: Mapping[int, Sampled],
        frontier: Mapping[tuple[int, float], Sampled] | None = None,
        guided: Mapping[tuple[str, float], Sequence[str]] | None = None,
    ) -> Path:
        """Measures all samples, prints the table and writes the file; returns its path."""
        models = ScoringModels(self.device)
        samples = {seed: own.texts for seed, own in sampled.items()}
        # Samples are expensive: they are saved even if measuring fails.
        swept = {_setting_name(*setting): own.texts for setting, own in (frontier or {}).items()}
        self._write(samples, [], models, swept)
        rows = self._rows(sampled, models)
        for (steps, scale), own in (frontier or {}).items():
            more = self._rows({self.options.seeds[0]: own}, models, alone=True)
            facts = {"sampling_steps": steps, "guidance_scale": scale}
            rows += named(more, _setting_name(steps, scale), facts)
        if guided:
            shared: Any = {"settings": self.options.settings, "models": models}
            measure = partial(evaluate_texts, **shared, cache=self.cache)
            real = self.references.texts
            rows += guide_rows(self.judges, guided, real, self.training, measure)
        tolerance = self._tolerance()
        print_report(rows, f"{self.options.num_samples} samples of {self.checkpoint or self.run_dir}")
        print_tolerance(tolerance)
        path = self._write(samples, rows, models, swept, tolerance)
        if self.page is not None:
            self._write_page(self.page, path)
        return path

    def _tolerance(self) -> dict:
        """Figures of `measure_tolerance` for validation texts, and what they mean under ``checks``."""
        filled = self.dataset.validation.filled()[:TEXTS]
        return with_checks(measure_tolerance(self.pipe, self.dataset.validation.select(filled)))

    def _truncated(self, texts: Sequence[str]) -> int:
        """How many texts have as many tokens as the model's longest."""
        tokenizer, limit = self.pipe.autoencoder.tokenizer, self.pipe.autoencoder.max_len
        tokens = tokenize_texts(texts, tokenizer, limit)
        return int((tokens.lengths >= limit).sum())

    def _rows(self, sampled: Mapping[int, Sampled], models: ScoringModels, alone: bool = False) -> list[Row]:
        """The rows of samples; with ``alone`` without rows of classes, real texts and interpolations."""
        samples = {seed: own.texts for seed, own in sampled.items()}
        shared: dict[str, Any] = {"settings": self.options.settings, "models": models}
        if self.from_sources:
            count = self.options.num_candidates
            scores = {seed: own.scores for seed, own in sampled.items()} if count > 1 else None
            return pair_rows(samples, self.references, count, partial(evaluate_pairs, **shared), scores)
        shared["cache"] = self.cache
        measure: Any = partial(evaluate_texts, **shared, truncated=self._truncated)
        if self.from_prompts:
            measure = partial(evaluate_continuations, prompts=self.references.sources or [], **shared)
            own = text_rows(samples, self.references, self.training, (), measure)
            real = measure(self.references.texts, self.references.texts, self.training)
            return [*own, Row("what really follows", {"texts": self.options.split}, [real])]
        training, names = self.training, self.pipe.statistics.class_names or ()
        together = replace(self.references, labels=None)
        others = other_real_texts(self.dataset, self.references)
        if alone:
            return text_rows(samples, together, training, names, measure, others)
        rows = text_rows(samples, self.references, training, names, measure, others)
        if self.options.interpolation:
            halfway = text_rows({0: self._between_real_texts()}, together, training, names, measure)
            rows += named(halfway, "halfway between real texts", {"interpolated": True})
        return rows + reference_rows(self.dataset, self.references, training, names, measure)

    def _between_real_texts(self) -> dict[str, list[str]]:
        """Texts from latents halfway between pairs of validation texts, by decoding."""
        known, count = self.dataset.validation.texts, self.options.num_samples
        start, end = ([known[(i + shift) % len(known)] for i in range(count)] for shift in (0, 1))
        latents, mask = self.pipe.between(start, end, torch.full((count,), 0.5))
        return {
            name: self.pipe.decode(latents, how, mask=mask) for name, how in self.options.decodings.items()
        }

    def _write_page(self, page: Path, path: Path) -> None:
        content = read_json(path, "an evaluation")
        decoding, texts = next(iter(next(iter(content["texts"].values())).items()))
        count = self.options.num_candidates
        write_page(
            page,
            content,
            class_names=self.pipe.statistics.class_names,
            film=film(self.pipe, self.options.decodings[decoding], self._options_of_first()),
            latents=latent_map(self.pipe, self.references.texts, texts[::count]),
            earlier=earlier_evaluations(path),
        )
        console.print(f"Report written to {page}.")

    def _options_of_first(self, setting: tuple[int, float] | None = None) -> dict:
        """Sampling options of the first sample of the first seed."""
        options = self._sampling_options(setting) | {"seed": self.options.seeds[0]}
        if self.references.labels is not None:
            options["class_id"] = self.references.labels[0]
        if self.references.sources is not None and not self.from_prompts:
            options["source"] = self.references.sources[0]
        return options

    def _write(
        self,
        samples: Samples,
        rows: Sequence[Row],
        models: ScoringModels,
        swept: Mapping,
        tolerance: Mapping | None = None,
    ) -> Path:
        content = {
            "run": str(self.run_dir),
            "checkpoint": self.checkpoint and str(self.checkpoint),
            "settings": dict(self.config) | {"generation": self.generation},
            "dataset": {"name": self.dataset.name, "origin": self.dataset.origin},
            "device": str(self.device),
            "processes": self.processes.num_processes,
            "versions": versions(),
            "models": models.used(),
            "rows": [row.as_dict() for row in rows],
            "decoder_tolerance": tolerance,
            "texts": {f"seed {seed}": texts for seed, texts in samples.items()},
            "frontier_texts": swept,
            "references": vars(self.references),
        }
        write_json(self.path, content)
        return self.path

    def _default_path(self) -> Path:
        generation = self.generation
        parts = [
            self.checkpoint.name if self.checkpoint else None,
            generation["sampler"],
            str(generation["num_inference_steps"]),
            "-".join(self.options.decodings),
            f"{self.options.num_samples}_texts",
            None if self.class_id is None else f"class_{self.class_id}",
            "seed_" + "-".join(map(str, self.options.seeds)),
        ]
        return self.results / "evaluation" / f"{'_'.join(part for part in parts if part)}.json"


def _setting_name(steps: int, guidance_scale: float) -> str:
    return f"{steps} steps, guidance {guidance_scale:g}"
