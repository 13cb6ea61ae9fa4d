"""The shared rich console and its progress bars, both plain when piped.

Printed texts are data: markup is not interpreted, and control characters are escaped (see
`ld4lg_fast.export.runtime.text_display`).
"""

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from ld4lg_fast.export.runtime.text_display import displayed


class TextConsole(Console):
    """A console without markup, as classes, sources and samples may contain anything."""

    def __init__(self, **options: Any) -> None:
        super().__init__(soft_wrap=True, markup=False, highlight=False, emoji=False, **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints texts, each without line breaks (``sep="\\n"`` separates them by lines), or tables."""
        super().print(*(displayed(part) if isinstance(part, str) else part for part in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A cell of a table, which may have several lines."""
        return super().render_str("\n".join(map(displayed, text.split("\n"))), **options)

    def on_broken_pipe(self) -> None:
        """Leaves a closed pipe to `terminal_output`, as every other print does."""
        raise


class ShownColumn(ProgressColumn):
    """A column of a progress bar: a template such as ``{task.description}``."""

    def __init__(self, template: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.template = template

    def render(self, task: Task) -> Text:
        return Text(displayed(self.template.format(task=task)))


console = TextConsole()


def progress_bar(*extra: str) -> Progress:
    """A progress bar on the shared console; ``extra``: templates of further columns.

    Nothing is drawn if the output is not a terminal.
    """
    return Progress(
        ShownColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *map(ShownColumn, extra),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
