"""What an installation holds."""

import tomllib
from importlib import metadata, resources
from pathlib import Path

import ld4lg_fast

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_has_one_place():
    assert metadata.version("ld4lg-fast") == ld4lg_fast.__version__
    assert "version" in PYPROJECT["project"]["dynamic"]


def test_the_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="ld4lg")
    assert command.value == PYPROJECT["project"]["scripts"]["ld4lg"]
    assert callable(command.load())


def test_configuration_files_ship():
    configs = resources.files("ld4lg_fast") / "configs"
    assert {"train.yaml", "infer.yaml"} <= {entry.name for entry in configs.iterdir()}


def test_torch_stays_within_the_tested_releases():
    (torch,) = (line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert torch == "torch>=2.11,<2.14"
