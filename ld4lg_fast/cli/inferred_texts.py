"""The texts of one `scripts/infer.py`, sampled all at once or batch by batch, by all processes."""

from dataclasses import dataclass
from typing import Any

from accelerate import PartialState

from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.decoding.reranking import choose, in_groups
from ld4lg_fast.engine.distributed import gathered, share
from ld4lg_fast.export.runtime.similarity import SCORE
from ld4lg_fast.pipeline.outputs import Progress
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.presets import DECODING

# Entries of the group ``generation`` that the pipeline knows by the same name.
PASSED_ON = (
    *("sampler", "spacing", "eta", "class_id", "class_name", "guidance_scale", "guidance_interval"),
    *("precision", "seed", "batch_size", "num_inference_steps", "guides", "guide_scales"),
)


@dataclass(frozen=True)
class InferredTexts:
    """Texts by their ids: what they are sampled with, and a source, reference or prompt for each, or one prompt.

    ``settings``: the resolved group ``generation``.
    """

    pipe: TextDiffusionPipeline
    processes: PartialState
    settings: dict[str, Any]
    sources: list[str] | None
    references: list[str] | None
    prompts: list[str] | None

    def rows(self, first: int, last: int, progress: Progress) -> list[dict[str, Any]] | None:
        """Texts ``first`` to ``last - 1`` with class, source, reference, candidates and prompt where there are any.

        The processes share them out; all but the main one return None.
        """
        count, pipe, settings = self.settings["num_candidates"], self.pipe, self.settings
        ids = [first * count + place for place in share((last - first) * count, self.processes)]
        given: dict[str, Any] = {}
        if self.sources is not None:
            given["source"] = [self.sources[index // count] for index in ids]
        if pipe.model.writes_documents:
            every = self.prompts or [""]
            given["prompt"] = every if len(every) == 1 else [every[index] for index in ids]
            given["max_new_tokens"] = settings["max_new_tokens"]
        sampled: list[tuple[str, int | None, float]] = []
        if ids:
            output = pipe(
                len(ids),
                sample_ids=ids,
                decoding=DecodingConfig(**{name: settings[name] for name in DECODING}),
                progress=progress,
                **{name: settings[name] for name in PASSED_ON},
                **given,
            )
            texts, scores = output.texts, [0.0] * len(ids)
            classes = [None] * len(ids) if output.class_ids is None else output.class_ids.tolist()
            if count > 1 and settings["choose_by"] == SCORE:
                scores = pipe.confidences(output.latents, texts, output.mask).tolist()
            sampled = list(zip(texts, classes, scores, strict=True))
        every_text = gathered(ids, sampled, self.processes)
        if every_text is None:
            return None
        groups = in_groups(every_text, count)
        return [self._row(index, group) for index, group in enumerate(groups, start=first)]

    def _row(self, index: int, candidates: list[tuple[str, int | None, float]]) -> dict[str, Any]:
        texts, classes, scores = zip(*candidates, strict=True)
        kept = choose(texts, scores, self.settings["choose_by"]) if len(texts) > 1 else 0
        row: dict[str, Any] = {"text": texts[kept]}
        if (names := self.pipe.statistics.class_names) is not None:
            row["class"] = (*names, None)[classes[0]]
        if self.sources is not None:
            row["source"] = self.sources[index]
        if self.references is not None:
            row["reference"] = self.references[index]
        if len(texts) > 1:
            row["candidates"] = list(texts)
        if self.prompts is not None:
            row["prompt"] = self.prompts[index if len(self.prompts) > 1 else 0]
        return row
