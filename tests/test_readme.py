"""The README names what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def table_rows(first_cell: str) -> list[str]:
    return [line for line in README.splitlines() if line.startswith(f"| `{first_cell}")]


def test_places_in_the_file_map_exist():
    places = README.split("## Where things are")[1]
    rows = [line for line in places.splitlines() if line.startswith("| `")]
    assert len(rows) > 8
    for row in rows:
        folder = None
        for name in re.findall(r"`([^`]+)`", row.split("|")[1]):
            folder = folder or (ROOT / name).parent
            assert (ROOT / name).exists() or (folder / name).exists(), name


@pytest.mark.parametrize("group", ["dataset", "model", "autoencoder", "recipe"])
def test_config_choices_are_all_listed(group):
    (row,) = table_rows(f"{group}=")
    listed = set(re.findall(r"`([^`]+)`", row.split("|")[2]))
    assert listed == {path.stem for path in (ROOT / "ld4lg_fast" / "configs" / group).glob("*.yaml")}


def test_samplers_are_all_listed():
    from ld4lg_fast.samplers import SAMPLERS

    section = README.split("| sampler | what it is |")[1].split("##")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.M)) == set(SAMPLERS)


def test_scripts_and_commands_exist():
    for script in re.findall(r"python ((?:scripts|tests|benchmarks)/\w+\.py)", README):
        assert (ROOT / script).exists(), script
    commands = set(re.findall(r"^ld4lg ([\w-]+)", README, re.M))
    from ld4lg_fast.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands <= names and {"demo", "import-checkpoint"} <= commands
