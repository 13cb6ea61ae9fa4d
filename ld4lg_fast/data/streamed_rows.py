"""`rows.splits_from_rows` of large files: rows pass through memory chunk by chunk into Arrow files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ld4lg_fast.data.catalogue import DatasetSpec
from ld4lg_fast.data.corpus import TextSplit
from ld4lg_fast.data.formats import read_in_chunks, read_table
from ld4lg_fast.data.rows import Columns, accounts_of, of_files, refuse_empty, separated, texts_and_sources
from ld4lg_fast.data.texts import ColumnWriter, Texts, read_columns
from ld4lg_fast.errors import DataError
from ld4lg_fast.export.runtime.text_files import Table


def streamed_splits(
    spec: DatasetSpec, by_split: Mapping[str, Sequence[Path]], asked: Columns, folder: Path
) -> tuple[dict[str, TextSplit], list[str], str]:
    """The splits in file order, without labels; a description of each file, and the names of all.

    Args:
        folder: for the Arrow files that the splits are read from.

    Raises:
        DataError: as `splits_from_rows`.
        OSError: the disk is full.
    """
    splits: dict[str, TextSplit] = {}
    accounts: list[str] = []
    names: list[str] = []
    has_sources = bool(asked.source or spec.source)
    for split, paths in by_split.items():
        files = [folder / f"{split}-{number}.arrow" for number in range(len(paths))]
        facts = [
            _stream(spec, path, asked, has_sources, file) for path, file in zip(paths, files, strict=True)
        ]
        tables = [table for table, _, _ in facts]
        refuse_empty(tables)
        names.append(of_files(tables))
        accounts += accounts_of(tables, [count for _, count, _ in facts], [note for *_, note in facts])
        columns = read_columns(files)
        splits[split] = TextSplit(
            Texts(columns["text"]), None, Texts(columns["source"]) if has_sources else None
        )
    return splits, accounts, ", ".join(names)


def _stream(
    spec: DatasetSpec, path: Path, asked: Columns, has_sources: bool, file: Path
) -> tuple[Table, int, str]:
    """Writes the texts and sources of a file; returns its table without rows, how many are not blank, and a note.

    A file whose chunks have other columns, or an error, is read as a whole, which decides for all of its rows and knows
    their places.
    """
    try:
        return _write(spec, read_in_chunks(path), asked, has_sources, file)
    except DataError:
        return _write(spec, iter([read_table(path)]), asked, has_sources, file)


def _write(
    spec: DatasetSpec, chunks: Any, asked: Columns, has_sources: bool, file: Path
) -> tuple[Table, int, str]:
    num_rows = num_blank = num_filled = 0
    notes: tuple[str, ...] = ()
    name, found = "", None
    with ColumnWriter(file, {"text": str} | ({"source": str} if has_sources else {})) as columns:
        for chunk in chunks:
            table = separated(spec, chunk)
            name, notes = table.name, (*notes, *table.notes)
            num_blank += table.num_blank
            if not table.rows:
                continue
            part, note, names = texts_and_sources(table, spec, asked)
            chosen = note, names
            if found not in (None, chosen):
                raise DataError(f"{name} has other columns in its first rows than in later ones")
            found = chosen
            num_rows += len(table.rows)
            num_filled += len(part.filled())
            columns.write(text=part.texts, source=part.sources or ())
    rows: Any = range(num_rows)  # of which only the number is used
    return Table(name, rows, (), num_blank=num_blank, notes=notes), num_filled, found[0] if found else ""
