"""`ld4lg bench`: the suites of the folder ``benchmarks/``, which a checkout has and an installed package has not."""

import ast
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.text_display import displayed


def find_suites() -> dict[str, Path]:
    """The benchmarks that can be run, by name; empty where there is no checkout.

    They are looked for beside the package (an editable install), then in the current directory.
    """
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        folder = root / "benchmarks"
        if (folder / "harness.py").exists():
            files = [path for path in sorted(folder.glob("*.py")) if "__main__" in path.read_text("utf-8")]
            return {path.stem.removesuffix("_throughput").replace("_", "-"): path for path in files}
    return {}


def describe(suite: Path) -> str:
    """The first line of a suite's docstring."""
    return (ast.get_docstring(ast.parse(suite.read_text("utf-8"))) or "").partition("\n")[0]


def run_suite(name: str | None, arguments: Sequence[str]) -> int:
    """Runs a suite in a process of its own and returns its exit code; without a name, lists all suites.

    Raises:
        ConfigError: there is no checkout, or no such suite in it.
    """
    suites = find_suites()
    if not suites:
        raise ConfigError(
            "The benchmarks are not part of the installed package, because they compare it with the published code "
            "that lies in the repository; run ld4lg bench in a checkout."
        )
    if name is None:
        for known, path in suites.items():
            print(displayed(f"{known:<16} {describe(path)}"))
        return 0
    if name not in suites:
        raise ConfigError(f"There is no benchmark {name!r}; choose one of {', '.join(suites)}.")
    before = signal.signal(
        signal.SIGINT, lambda *_: None
    )  # Ctrl-C reaches the suite too, which ends in its own way
    try:
        return subprocess.run([sys.executable, str(suites[name]), *arguments]).returncode
    finally:
        signal.signal(signal.SIGINT, before)
