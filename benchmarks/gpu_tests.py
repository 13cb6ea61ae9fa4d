"""The tests that need a GPU, ``pytest -m gpu``, with their outcomes as JSON.

python benchmarks/gpu_tests.py [--json FILE]

Runs from a checkout or an exported tree, with the package installed in any way. Files that cannot be imported, for a
package that is not installed, are named; the others run.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from harness import ROOT, describe_device, versions

MARKER = "pytest.mark.gpu"


def test_files() -> list[Path]:
    """The files of ``tests/`` that have a test or a parameter with the marker ``gpu``."""
    return [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARKER in path.read_text("utf-8")]


def outcomes(report: Path) -> dict:
    """The number of tests that passed, and a line for each that failed or was skipped, of a JUnit report.

    A file that imports a package which is not installed counts as skipped.
    """
    found: dict = {"passed": 0, "failed": [], "skipped": []}
    for case in ElementTree.parse(report).iter("testcase"):
        problem = next((element for element in case if element.tag in ("failure", "error", "skipped")), None)
        if problem is None:
            found["passed"] += 1
            continue
        absent = re.search(r"ModuleNotFoundError: (.*)", problem.text or "")
        message = absent[1] if absent else ((problem.get("message") or "").splitlines() or [""])[0]
        kind = "skipped" if problem.tag == "skipped" or (problem.tag == "error" and absent) else "failed"
        found[kind].append(f"{case.get('classname')}::{case.get('name')}: {message}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    import pytest

    # The project's options start workers of pytest-xdist, and put the source tree before an installed package.
    own = ["-o", "addopts=", "-o", "pythonpath=", "-p", "no:cacheprovider", "--continue-on-collection-errors"]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = pytest.main([*map(str, test_files()), "-m", "gpu", "-q", *own, f"--junitxml={report}"])
        result = outcomes(report)
    result |= {"exit_code": int(code), "seconds": time.perf_counter() - start}
    errors = [f"{len(result['failed'])} tests failed"] if result["failed"] else []
    if not result["passed"]:
        errors.append("no test passed")
    result |= {"errors": errors, "device": describe_device("cuda"), "versions": versions()}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
