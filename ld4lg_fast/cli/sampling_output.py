"""Progress bars and printed texts of the sampling commands."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from ld4lg_fast.export.runtime.guide_options import DEFAULT_SCALE
from ld4lg_fast.export.runtime.text_display import list_item
from ld4lg_fast.pipeline.outputs import Progress
from ld4lg_fast.pipeline.pipeline import TextDiffusionOutput, TextDiffusionPipeline
from ld4lg_fast.pipeline.text_guide import LENGTH
from ld4lg_fast.terminal.console import console, progress_bar

PHASES = {"texts": "texts", "denoise": "denoising", "decode": "decoding", "write": "writing"}
CONDITIONS = ("class_name", "source", "guidance_scale")  # that lengths are learned under


@contextmanager
def sampling_bars() -> Iterator[Progress]:
    """A progress bar for each phase of sampling; yields what is called with (phase, done, total)."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(PHASES[phase], total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress


def sampling_call(
    pipe: TextDiffusionPipeline, length: int | None, options: Mapping[str, Any]
) -> Callable[..., TextDiffusionOutput]:
    """The pipeline, or its `of_length` with what it has to learn first under the conditions in ``options``."""
    if length is None:
        return pipe
    pipe.check_length(length)  # nothing is to be learned for a call that is refused
    scale = None if pipe.autoencoder.perceiver is None else DEFAULT_SCALE
    if scale is not None and LENGTH not in pipe.text_guides:
        pipe.learn_length(**{name: options[name] for name in CONDITIONS if options.get(name) is not None})
    return partial(pipe.of_length, length=length, guide_scale=scale)


def print_texts(texts: Sequence[str], seconds: float, prefixes: Sequence[str] | None = None) -> None:
    """Prints the texts, each after its prefix (class or source), and the time they took."""
    list_texts(texts, prefixes)
    console.print(f"{len(texts)} texts in {seconds:.1f} s.")


def list_texts(texts: Sequence[str], prefixes: Sequence[str] | None = None) -> None:
    """Prints the texts, each after its prefix."""
    for index, text in enumerate(texts):
        console.print(*list_item(f"{prefixes[index] if prefixes else ''}{text}").split("\n"), sep="\n")


def prefix_of(row: Mapping[str, Any]) -> str:
    """What is printed before a text: its prompt, source or class."""
    if "prompt" in row:
        return row["prompt"]
    if "source" in row:
        return f"{row['source']} → "
    return f"[{row['class'] or 'no class'}] " if "class" in row else ""
