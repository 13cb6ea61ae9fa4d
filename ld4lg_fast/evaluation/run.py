"""The test command's work: load a run, sample from it, measure, write."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from accelerate import PartialState

from ld4lg_fast.console import console
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.evaluation.cache import ArrayCache
from ld4lg_fast.evaluation.checkpoints import load_checkpoint
from ld4lg_fast.evaluation.metrics import evaluate_pairs, evaluate_texts
from ld4lg_fast.evaluation.models import ScoringModels
from ld4lg_fast.evaluation.options import Options
from ld4lg_fast.evaluation.references import choose_class, choose_references, load_dataset, shuffled
from ld4lg_fast.evaluation.report import Row, print_report, versions
from ld4lg_fast.evaluation.report_latents import film, latent_map
from ld4lg_fast.evaluation.report_page import earlier_evaluations, write_page
from ld4lg_fast.evaluation.rows import Samples, pair_rows, reference_rows, text_rows
from ld4lg_fast.evaluation.sampling import Conditions, sample_texts
from ld4lg_fast.inference import DTYPES, choose_device, resolved
from ld4lg_fast.pipeline import TextDiffusionPipeline
from ld4lg_fast.weights import read_json, write_json


class Evaluation:
    """One test command, in one of its processes.

    Args:
        config: the groups ``infer``, ``generation``, ``evaluation`` and ``dataset`` of ``configs/test.yaml``.

    Raises:
        LD4LGError: anything that the user can mend; everything that can be checked before sampling is.
    """

    def __init__(self, config: Mapping, processes: PartialState) -> None:
        self.config, self.processes = config, processes
        infer, generation = config["infer"], dict(config["generation"])
        self.run_dir = Path(infer["output_dir"])
        if infer["dtype"] not in DTYPES:
            raise ConfigError(f"Unknown dtype {infer['dtype']!r}; choose one of {', '.join(DTYPES)}.")
        alone = processes.num_processes == 1
        self.device = choose_device(infer["device"]) if alone else processes.device
        self.pipe = TextDiffusionPipeline.from_pretrained(self.run_dir)
        given = infer["ckpt_path"]
        self.checkpoint = None if given is None else load_checkpoint(self.pipe, self.run_dir, given)
        # The file is to say what it was, not that it was left open.
        generation |= resolved(self.pipe, generation)
        self.generation = generation
        self.options = Options.read(generation, config["evaluation"], self.pipe.model.recipe["version"])
        network = self.pipe.model.denoiser.config
        self.from_sources = self.pipe.model.is_seq2seq
        if self.options.num_candidates > 1 and not self.from_sources:
            raise ConfigError(
                f"generation.num_candidates={self.options.num_candidates} needs a sequence-to-sequence "
                "model; this one writes without a source, use 1."
            )
        self.class_id = choose_class(self.pipe, generation["class_id"], generation["class_name"])
        dataset = load_dataset(self.run_dir, config["dataset"])
        self.dataset = shuffled(dataset, config["evaluation"]["reference_seed"])
        self.references = choose_references(
            self.dataset,
            self.options.split,
            self.options.num_samples,
            self.class_id,
            network.num_classes,
            self.from_sources,
        )
        self.pipe.to(self.device, DTYPES[infer["dtype"]])

    @property
    def conditions(self) -> Conditions:
        """A sample has the class and the source of its reference; candidates of a source stand in a row."""
        count = self.options.num_candidates

        def repeat(column: list | None) -> list | None:
            return None if column is None else [entry for entry in column for _ in range(count)]

        labels, sources = repeat(self.references.labels), repeat(self.references.sources)
        return Conditions(self.options.num_samples * count, labels, sources)

    def sample(self, seed: int) -> dict[str, list[str]] | None:
        """The texts of each decoding; None but in the main process."""
        options = self._sampling_options()
        return sample_texts(self.pipe, self.conditions, self.options.decodings, options, seed, self.processes)

    def _sampling_options(self) -> dict:
        names = ("sampler", "spacing", "guidance_scale", "guidance_interval", "precision", "batch_size")
        options = {name: self.generation[name] for name in names}
        return options | {"num_inference_steps": self.generation["sampling_steps"]}

    def measure(self, samples: Samples) -> Path:
        """Measures the texts of all seeds, prints the table and writes the file; returns its path."""
        models = ScoringModels(self.device)
        # Texts are dear: they are kept even if measuring them fails.
        self._write(samples, [], models)
        shared = {"settings": self.options.settings, "models": models}
        if self.from_sources:
            pairs = partial(evaluate_pairs, **shared)
            rows = pair_rows(samples, self.references, self.options.num_candidates, pairs)
        else:
            measure = partial(evaluate_texts, cache=ArrayCache(self.run_dir / "cache"), **shared)
            training, names = self.dataset.train.texts, self.pipe.statistics.class_names or ()
            rows = text_rows(samples, self.references, training, names, measure)
            rows += reference_rows(self.dataset, self.references, names, measure)
        print_report(rows, f"{self.options.num_samples} samples of {self.checkpoint or self.run_dir}")
        path = self._write(samples, rows, models)
        if page := self.config["evaluation"]["report"]:
            self._write_page(Path(page), path)
        return path

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
        console.print(f"Report written to {page}.", markup=False, highlight=False)

    def _options_of_first(self) -> dict:
        """What the first sample of the first seed was sampled with."""
        options = self._sampling_options() | {"seed": self.options.seeds[0]}
        if self.references.labels is not None:
            options["class_id"] = self.references.labels[0]
        if self.references.sources is not None:
            options["source"] = self.references.sources[0]
        return options

    def _write(self, samples: Samples, rows: Sequence[Row], models: ScoringModels) -> Path:
        path = self._path()
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
            "texts": {f"seed {seed}": texts for seed, texts in samples.items()},
            "references": vars(self.references),
        }
        write_json(path, content)
        return path

    def _path(self) -> Path:
        if given := self.config["infer"]["output_file"]:
            return Path(given)
        generation = self.generation
        parts = [
            self.checkpoint.name if self.checkpoint else None,
            generation["sampler"],
            str(generation["sampling_steps"]),
            "-".join(self.options.decodings),
            f"{self.options.num_samples}_texts",
            None if self.class_id is None else f"class_{self.class_id}",
            "seed_" + "-".join(map(str, self.options.seeds)),
        ]
        return self.run_dir / "evaluation" / f"{'_'.join(part for part in parts if part)}.json"
