"""The tables of README and docs list what there is, and name what exists."""

import re

import pytest

from ld4lg_fast.cli.main import app
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.pipeline.presets import QUALITIES
from tests.doc_commands import DOCUMENTS, ROOT, commands
from tests.test_architecture import ROOMS

DOCS = {path.stem: path.read_text(encoding="utf-8") for path in DOCUMENTS}


def first_cells(text: str) -> set[str]:
    return set(re.findall(r"^\| `([\w.-]+)` \|", text, re.M))


def test_the_map_names_every_room_and_files_that_exist():
    rooms, around, steps = (part.split("\n\n")[0] for part in DOCS["places"].split("|---|---|\n")[1:])
    names = {
        name for table in (rooms, around, steps) for name in re.findall(r"`(\w[\w/]*(?:/|\.py))`", table)
    }
    assert len(names) > 25
    for name in names:
        assert any(
            (ROOT / place / name).exists() for place in ("", "ld4lg_fast", "scripts", "benchmarks", "tests")
        )
    assert re.findall(r"^\| `(\w+)/`", rooms, re.M) == list(ROOMS)


@pytest.mark.parametrize("group", ["dataset", "model", "autoencoder", "recipe"])
def test_config_choices_are_all_listed(group):
    (row,) = (line for line in DOCS["training"].splitlines() if line.startswith(f"| `{group}="))
    listed = set(re.findall(r"`([^`]+)`", row.split("|")[2]))
    assert listed == {path.stem for path in (ROOT / "ld4lg_fast" / "configs" / group).glob("*.yaml")}


def test_samplers_and_presets_are_all_listed():
    table = DOCS["sampling"].split("| sampler | what it is |")[1].split("\n\n")[0]
    assert first_cells(table) == set(SAMPLERS)
    table = DOCS["sampling"].split("| `generation.quality=` | what it is |")[1].split("\n\n")[0]
    assert first_cells(table) == set(QUALITIES)


def test_the_readme_names_every_document():
    linked = set(re.findall(r"\]\(docs/([\w-]+)\.md\)", DOCS["README"]))
    assert linked == set(DOCS) - {"README"}


def test_commands_exist():
    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = {line.split()[1] for path in DOCUMENTS for line in commands(path) if line.startswith("ld4lg ")}
    assert named <= names
    assert names - named == {"doctor", "learn-timesteps"}, "these two are named in sentences"
    for name in names - named:
        assert any(f"`ld4lg {name}" in text for text in DOCS.values())
