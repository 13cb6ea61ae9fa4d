"""Replays a folder of golden cases against ``benchmarks/reference`` and ``ld4lg_fast``.

One line a case and implementation: verdict, share of the tolerance that its worst output uses,
implementation, case, that output. Exit code 1 if any share exceeds 1.

    python tests/replay_golden.py FOLDER [--implementation reference|ld4lg_fast]
"""

import argparse
import sys
from pathlib import Path

from golden_cases import IMPLEMENTATIONS, load_cases, replay


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Replays a folder of golden cases.")
    parser.add_argument("folder", type=Path, help="holds manifest.json and the files that it names")
    parser.add_argument("--implementation", choices=IMPLEMENTATIONS, help="replay this one alone")
    options = parser.parse_args(arguments)
    if not (options.folder / "manifest.json").is_file():
        print(f"{options.folder} holds no manifest.json; give a folder of golden cases.", file=sys.stderr)
        return 2
    implementations = [options.implementation] if options.implementation else IMPLEMENTATIONS
    cases = load_cases(options.folder)
    worst, failed = dict.fromkeys(implementations, 0.0), 0
    for case in cases:
        for implementation in implementations:
            verdict = replay(case, implementation)
            failed += not verdict.good
            worst[implementation] = max(worst[implementation], verdict.share)
            word = "ok " if verdict.good else "BAD"
            line = f"{word} {verdict.share:9.4f}  {implementation:10}  {case.id}  {verdict.reason}"
            print(line, flush=True)
    largest = ", ".join(f"{name} {share:.4f}" for name, share in worst.items())
    print(f"{len(cases)} cases, {failed} failed; largest share of a tolerance: {largest}")
    return 1 if failed or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
