"""The texts of one `ld4lg sample`, sampled batch by batch: the same texts in JSON and in JSON lines."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ld4lg_fast.cli.sampling_output import sampling_bars, sampling_call
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.engine.engine import fitting_batch
from ld4lg_fast.pipeline.documents import prompt_list
from ld4lg_fast.pipeline.outputs import Progress, TextDiffusionOutput
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline

CHOSEN_TOGETHER = 64  # texts whose candidates compete, whatever a device holds at once


@dataclass(frozen=True)
class SampledTexts:
    """``num_texts`` texts by their ids, which decide them together with the options.

    Args:
        prompts: of a model that writes documents, one for all texts or one for each.
        options: of `TextDiffusionPipeline`'s call.
    """

    call: Callable[..., TextDiffusionOutput]
    num_texts: int
    batch_size: int
    prompts: list[str] | None
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        pipe: TextDiffusionPipeline,
        num_texts: int,
        decoding: DecodingConfig | str | None = None,
        length: int | None = None,
        prompt: str | Sequence[str] | None = None,
        **options: Any,
    ) -> "SampledTexts":
        """Texts of a call of the pipeline with ``options``, or of its `of_length`; learns what that needs first."""
        prompts = None if prompt is None else prompt_list(prompt, num_texts)[0]
        call = sampling_call(pipe, length, options)
        batch_size = CHOSEN_TOGETHER if options["best_of"] > 1 else fitting_batch(pipe.model)
        return cls(call, num_texts, batch_size, prompts, options | {"decoding": decoding})

    def rows(self, first: int, last: int, progress: Progress) -> list[dict[str, Any]]:
        """Texts ``first`` to ``last - 1``, with their prompts where there are any."""
        ids = range(first * self.options["best_of"], last * self.options["best_of"])
        given = {}
        if self.prompts is not None:
            given["prompt"] = self.prompts[first:last] if len(self.prompts) > 1 else self.prompts
        output = self.call(last - first, sample_ids=ids, progress=progress, **self.options, **given)
        if output.prompts is None:
            return [{"text": text} for text in output.texts]
        return [
            {"text": text, "prompt": before}
            for text, before in zip(output.texts, output.prompts, strict=True)
        ]

    def every_row(self) -> tuple[list[dict[str, Any]], float]:
        """The rows of all texts, sampled under progress bars, and the seconds that they took."""
        start, found = time.perf_counter(), []
        with sampling_bars() as progress:
            for first in range(0, self.num_texts, self.batch_size):
                found += self.rows(first, min(first + self.batch_size, self.num_texts), progress)
        return found, time.perf_counter() - start
