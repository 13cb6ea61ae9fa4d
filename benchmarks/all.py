"""Every benchmark on this machine, piece by piece, and one page of their results.

ld4lg bench all [--device cpu|cuda] [--out DIR] [--quick] [--profile] [--max-minutes N]

Each piece takes less than nine minutes and leaves its result in DIR; started again, the command keeps the pieces that
are done. A piece that fails or takes too long is noted, and the next one begins. On a GPU the tests that need one come
first, then replayed CUDA graphs are compared with eager steps. ``--profile`` adds where the time between launches goes;
``--quick`` takes sizes that say whether everything runs, in three minutes on two cores; ``--max-minutes`` begins no
piece that would take longer, for machines that are lent for minutes at a time.

DIR/index.html is the page, DIR/bench.json everything in it; the last line of the output is one JSON. Exit code: 0, 1
where a piece failed, 130 after Ctrl-C. The tree needs no git, the package neither Hydra nor a network.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from harness import add_device, chosen_device, describe_device, versions

from benchmarks.bench_page import fastest_rungs, page
from benchmarks.piece_runner import Outcome, PieceRunner
from benchmarks.pieces import left_out, pieces
from ld4lg_fast.cli.bench import find_suites


def cpu_features() -> list[str]:
    """Instruction sets of the processor that matmuls use, as torch sees them."""
    wanted = (
        "avx2",
        "avx512_f",
        "avx512_bf16",
        "avx512_vnni",
        "avx512_fp16",
        "avx_vnni",
        "amx_bf16",
        "amx_int8",
    )
    known = torch.cpu.get_capabilities()
    return [name for name in wanted if known.get(name)]


def gather(out: Path, outcomes: list[Outcome], device: str, missing: dict[str, str]) -> dict:
    """What the page shows: the machine, every piece with its result, and what is missing with its reason."""
    results = []
    for outcome in outcomes:
        file = out / f"{outcome.name}.json"
        result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        results.append(vars(outcome) | {"result": result})
    return {
        "device": describe_device(device),
        "cpu": describe_device("cpu") | {"features": cpu_features()},
        "versions": versions() | {"cuda": torch.version.cuda},
        "pieces": results,
        "missing": missing
        | {o.name: (o.reason or o.status).splitlines()[0] for o in outcomes if o.status != "done"},
    }


def headline(found: dict) -> dict:
    """The last line of the output: how many pieces ended how, and the fastest rung of each ladder."""
    statuses = [piece["status"] for piece in found["pieces"]]
    counts = {status: statuses.count(status) for status in dict.fromkeys(statuses)}
    kept = ("title", "fastest", "batch", "speedup_vs_published", "speedup_vs_remedies")
    fastest = [{name: rung[name] for name in kept} for rung in fastest_rungs(found["pieces"])]
    return {"device": found["device"]["name"], "pieces": counts, "fastest": fastest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bench"), help="folder of results and of the page"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, three minutes on two cores")
    parser.add_argument("--profile", action="store_true", help="also profile the time between launches")
    parser.add_argument("--max-minutes", type=float, help="begin no piece that would end later")
    options = parser.parse_args()
    device = chosen_device(parser, options)
    chosen = pieces(device, options.quick, options.profile)
    outcomes, interrupted = PieceRunner(options.out, options.max_minutes).run(chosen)
    found = gather(options.out, outcomes, device, left_out(list(find_suites()), chosen))
    (options.out / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (options.out / "index.html").write_text(page(found), encoding="utf-8")
    print(options.out / "index.html")
    print(json.dumps(headline(found) | {"page": str(options.out / "index.html")}))
    if interrupted:
        sys.exit(130)
    sys.exit(any(outcome.status in ("failed", "timeout") for outcome in outcomes))


if __name__ == "__main__":
    main()
