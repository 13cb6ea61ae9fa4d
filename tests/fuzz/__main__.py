"""Fuzzes outside of pytest: python -m tests.fuzz run --count 300, or one case again by its name.

python -m tests.fuzz exported --name 'config.json:max_len=10**9' --show
"""

import argparse
import json
import sys
from pathlib import Path

from tests.fuzz.harness import Result, summary
from tests.fuzz.targets import TARGETS, fuzz


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=TARGETS)
    parser.add_argument("--count", type=int, help="how many cases, drawn by the seed; all if left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", action="append", default=[], help="only cases whose name contains this")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--python", default=sys.executable, help="an interpreter with another ld4lg_fast")
    parser.add_argument("--seal", choices=["yes", "no"], help="only cases that are sealed again, or are not")
    parser.add_argument("--show", action="store_true", help="print all cases, not only the bad ones")
    parser.add_argument(
        "--json",
        type=Path,
        help="append to this file a line for each case: its name, end, last word and peak of memory; cases that are "
        "in it already are not run again",
    )
    options = parser.parse_args()

    def show(result: Result) -> None:
        if options.show or result.is_bad:
            print(f"{result.outcome:16} {result.case.name}\n{'':16} {ascii(result.said)}", flush=True)
        if options.json is not None:
            line = [result.case.name, result.outcome, result.said, result.peak]
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    results = fuzz(
        options.what,
        options.count,
        options.seed,
        options.name,
        options.workers,
        options.python,
        None if options.seal is None else options.seal == "yes",
        show,
        _done(options.json),
    )
    print(summary(options.what, results))
    raise SystemExit(any(result.is_bad for result in results))


def _done(path: Path | None) -> set[str]:
    if path is None or not path.exists():
        return set()
    return {json.loads(line)[0] for line in path.read_text(encoding="utf-8").splitlines()}


if __name__ == "__main__":
    main()
