"""Contents of an installation, and consistency of pyproject.toml."""

import re
import tomllib
from importlib import metadata, resources
from pathlib import Path

import ld4lg_fast

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


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


def test_everything_that_is_read_at_run_time_ships():
    package = resources.files("ld4lg_fast")
    assert (package / "py.typed").is_file() and (package / "evaluation" / "report.html").is_file()
    serving = {entry.name for entry in resources.files("ld4lg_fast.export.runtime.serving").iterdir()}
    assert {"page.html", "page.css", "page.js", "page_snippets.js"} <= serving


def test_types_are_checked_of_the_whole_package():
    settings, packages = PYPROJECT["tool"]["mypy"], PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"]
    assert {(ROOT / place).resolve() for place in settings["files"]} == {ROOT / p for p in packages.values()}
    assert settings["disallow_untyped_defs"] and "overrides" not in settings


def test_the_container_copies_what_the_build_needs():
    copied = set(re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M))
    names = {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in names)
    folders = {*PYPROJECT["tool"]["scikit-build"]["wheel"]["packages"].values()}
    assert folders | {"pyproject.toml", "CMakeLists.txt", PYPROJECT["project"]["readme"]} <= names


def test_torch_stays_within_the_tested_releases():
    (torch,) = (line for line in PYPROJECT["project"]["dependencies"] if line.startswith("torch"))
    assert torch == "torch>=2.11,<2.14"
