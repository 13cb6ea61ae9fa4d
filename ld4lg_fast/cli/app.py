"""The typer application, and the types that its commands share."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ld4lg_fast.export.runtime.renamed import RENAMED, renamed_word
from ld4lg_fast.export.runtime.text_display import displayed, terminal_output
from ld4lg_fast.terminal.renamed_options import with_current_names

HELP = """Fast latent diffusion for language generation: train, sample, evaluate, deploy.

\b
ld4lg sample                                        texts from the small model that comes along
ld4lg demo                                          see one trained, a few minutes on a CPU
ld4lg train dataset=custom dataset.root=texts.txt   train on your own texts
ld4lg sample outputs/custom --num-samples 16        texts from a finished run
ld4lg guide outputs/custom --data labelled.jsonl --label-column topic
                                                    texts of a topic, from then on
ld4lg evaluate outputs/custom --report page.html    how good they are, as a page
ld4lg export outputs/custom exported                a folder that needs no PyTorch
ld4lg verify outputs/custom                         its first steps trained again, and compared
ld4lg serve outputs/custom                          an HTTP server as OpenAI's, with a page
ld4lg doctor                                        what works on this machine

Each command explains itself: ld4lg COMMAND --help. Exit codes: 0 done, 1 verify found a difference, 2 bad
input (one sentence says what to change), 130 ended by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP, 141 by a closed pipe (as
with | head -1).
"""


class OwnOptions(TyperCommand):
    """A command whose options may be given by their old names."""

    def make_context(self, info_name: str | None, args: list[str], *others: Any, **options: Any) -> Any:
        return super().make_context(info_name, with_current_names(args), *others, **options)


class Commands(TyperGroup):
    """The commands and their help within `terminal_output`, as typer has an exit code of its own for a closed pipe."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if not name.startswith("-") and name in RENAMED:
            print(displayed(renamed_word(name)), file=sys.stderr)
            args = [RENAMED[name], *args[1:]]
        return super().resolve_command(ctx, args)

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with terminal_output():
            return super().make_context(*arguments, **options)

    def invoke(self, context: Any) -> Any:
        with terminal_output():
            return super().invoke(context)


app = typer.Typer(
    name="ld4lg",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich" if sys.stdout is not None and sys.stdout.isatty() else None,
)

# Of the commands whose further arguments go to somebody else.
PASSES_ON = {"allow_extra_args": True, "ignore_unknown_options": True}


def path(text: str | Path) -> Path:
    """A path of the command line; an empty one would be the current directory."""
    if not str(text):
        raise typer.BadParameter("it is empty; name a file or a folder.")
    return Path(text)


NumSamples = Annotated[int, typer.Option(help="How many texts to sample.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same texts.")]
