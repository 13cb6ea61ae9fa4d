"""What people see: one rich console and one kind of progress bar, both plain when piped."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(soft_wrap=True)


def progress_bar(*extra: str) -> Progress:
    """A progress bar on the shared console; ``extra`` are templates of further columns.

    Where output is not a terminal nothing is drawn, so that logs stay readable.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        *[TextColumn(template) for template in extra],
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
