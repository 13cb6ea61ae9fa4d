"""Seconds and memory against the number of texts: reading them, tokens, memorization, first training steps, sampling.

python benchmarks/scaling.py --json RESULT.json
python benchmarks/scaling.py --quick
python benchmarks/scaling.py --sizes 10000000 --jobs read "first step" "warm start" --folder KEPT --json RESULT.json

The corpora are generated from a seed. Every job is a process of its own, see scaling_jobs.py; its memory is what it has
beyond its imports. ``tokenise as before`` is what this library did before it memory-mapped corpora; ``datasets`` is the
same work by `load_dataset` and `map` with the same tokenizer and as many processes as cores. ``first step`` reads,
trains a tokenizer, tokenises and makes one step of the autoencoder; ``warm start`` makes the first step of a denoiser
where tokens and latents are there. With ``--folder`` corpora and caches stay, and jobs can be measured one by one: rows
are added to those of the JSON file.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness import can_plot, describe_device, versions
from scaling_jobs import Memory, corpus_job, sampling_job, trained_tokenizer, training_job, write_corpus

ON_TEXTS = (
    *("read", "open", "tokenise", "tokenise as before", "datasets read", "datasets tokenise"),
    *("first batch", "memorization"),
)
TRAINING = ("first step", "warm start", "two ranks")
SAMPLING = ("sample", "killed and resumed")
JOBS = (*ON_TEXTS, *TRAINING, *SAMPLING)
MAKES = {"read": "hub/ld4lg_fast", "tokenise": "tokens", "datasets read": "hub/text", "first step": "run*"}
SAMPLES = 1000  # whose n-grams are looked up
QUICK = [300, 600]
MILLION = 1_000_000


def started(job: str, folder: Path, texts: int, environment: Mapping[str, str] = {}) -> subprocess.Popen:  # noqa: B006
    command = [sys.executable, __file__, "--job", job, "--folder", str(folder), "--sizes", str(texts)]
    every = os.environ | {"HF_DATASETS_CACHE": str(folder / "hub"), "STARTED": str(time.time())}
    return subprocess.Popen(command, env=every | environment, stdout=subprocess.PIPE, encoding="utf-8")


def row_of(process: subprocess.Popen) -> dict[str, Any]:
    """What a job's process measured."""
    printed, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a job failed with exit code {process.returncode}; what it said stands above")
    return json.loads(printed.splitlines()[-1])


def measured(job: str, folder: Path, texts: int) -> dict[str, Any]:
    """The row of a job, done by new processes; what it needs from other jobs is made first."""
    run = folder / "run"
    if job in MAKES:
        for old in folder.glob(MAKES[job]):
            shutil.rmtree(old)
    if job in (*TRAINING[1:], *SAMPLING) and not (run / "autoencoder").exists():
        row_of(started("first step", folder, texts))
    if job in (*TRAINING[1:], *SAMPLING) and not (run / "denoiser").exists():
        row_of(started("warm start", folder, texts))
    if job == "memorization":
        row_of(started(job, folder, texts))  # makes the index
    if job == "two ranks":
        return _two_ranks(folder, texts)
    if job == "killed and resumed":
        return _killed_and_resumed(folder, texts)
    return row_of(started(job, folder, texts))


def _two_ranks(folder: Path, texts: int) -> dict[str, Any]:
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    common |= {"ACCELERATE_USE_CPU": "true"}
    ranks = [
        started("warm start", folder, texts, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    rows = [row_of(process) for process in ranks]
    return {name: max(row[name] for row in rows) for name in rows[0]}


def _killed_and_resumed(folder: Path, texts: int) -> dict[str, Any]:
    """Sampling that SIGKILL ends twice; ``equal``: whether its file is that of ``sample``, which nothing ended."""
    whole, again = folder / "sampled.jsonl", folder / "again.jsonl"
    if not whole.exists():
        row_of(started("sample", folder, texts))
    again.unlink(missing_ok=True)
    again.with_suffix(".settings.json").unlink(missing_ok=True)
    start, kills = time.perf_counter(), 0
    for share in (1 / 3, 2 / 3):
        process = started("killed and resumed", folder, texts)
        while process.poll() is None and (
            not again.exists() or again.stat().st_size < share * whole.stat().st_size
        ):
            time.sleep(0.002)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    row = row_of(started("killed and resumed", folder, texts))
    digests = {hashlib.sha256(path.read_bytes()).digest() for path in (whole, again)}
    seconds = round(time.perf_counter() - start, 3)
    return row | {"seconds": seconds, "kills": kills, "equal": len(digests) == 1}


def run_job(job: str, folder: Path, texts: int) -> dict[str, Any]:
    """The row of a job in this process."""
    from ld4lg_fast.data import corpus_cache

    corpus_cache.LEAST_BYTES = 0
    if job in SAMPLING:
        work: Any = sampling_job(folder, texts, "sampled.jsonl" if job == "sample" else "again.jsonl")
        if job == "sample":
            for file in folder.glob("sampled.*"):
                file.unlink()
    else:
        work = training_job(job, folder) if job in TRAINING else corpus_job(job, folder)
    imports = time.time() - float(os.environ["STARTED"])
    with Memory() as memory:
        found = work()
    row = memory.row() | {"seconds_of_imports": round(imports, 3)}
    return row | (found if job in TRAINING else {})


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was to be reached, and what was: of the largest sizes that were measured."""
    by_job: dict[str, dict[int, Mapping[str, Any]]] = {job: {} for job in JOBS}
    for row in rows:
        by_job[row["job"]][row["texts"]] = row
    found: list[dict[str, Any]] = []

    def add(what: str, wanted: str, measured: float, reached: bool, unit: str) -> None:
        found.append(
            {
                "what": what,
                "to_reach": wanted,
                "measured": round(measured, 2),
                "unit": unit,
                "reached": reached,
            }
        )

    first = by_job["first step"]
    for texts in sorted(first)[-2:]:
        row = first[texts]
        add(
            f"memory of the first step, {texts:,} texts",
            "≤ 300",
            row["private_mib"],
            row["private_mib"] <= 300,
            "MB",
        )
    if len(first) > 1:
        few, many = sorted(first)[-2:]
        ratio = first[many]["private_mib"] / first[few]["private_mib"]
        add(f"the same, {many:,} texts against {few:,}", "≤ 1.2", ratio, ratio <= 1.2, "×")
    if warm := by_job["warm start"]:
        texts = max(warm)
        seconds, read = warm[texts]["seconds"], warm[texts]["texts_read"]
        add(f"warm start to the first step, {texts:,} texts", "≤ 10", seconds, seconds <= 10, "s")
        add("texts that it reads", f"≤ {SAMPLES} (validation)", read, read <= SAMPLES, "texts")
        if texts in by_job["two ranks"]:
            ratio = by_job["two ranks"][texts]["private_mib"] / warm[texts]["private_mib"]
            add(
                f"private memory of each of two ranks against one, {texts:,} texts",
                "≤ 1.1",
                ratio,
                ratio <= 1.1,
                "×",
            )
    for other, least in (("tokenise as before", 2), ("datasets tokenise", 3)):
        if both := by_job["tokenise"].keys() & by_job[other].keys():
            texts = max(both)
            ratio = by_job[other][texts]["seconds"] / by_job["tokenise"][texts]["seconds"]
            add(
                f"speed of tokenising against {other}, {texts:,} texts",
                f"≥ {least}",
                ratio,
                ratio >= least,
                "×",
            )
    if index := by_job["memorization"]:
        texts = max(index)
        seconds, memory = index[texts]["seconds"], index[texts]["private_mib"]
        add(f"memorization of {SAMPLES:,} samples against {texts:,} texts", "≤ 1", seconds, seconds <= 1, "s")
        add("its memory", "≤ 200", memory, memory <= 200, "MB")
    if len(sampled := by_job["sample"]) > 1:
        few, many = sorted(sampled)[-2:]
        ratio = sampled[many]["private_mib"] / sampled[few]["private_mib"]
        add(f"memory of {many:,} samples against {few:,}", "≤ 1.1", ratio, ratio <= 1.1, "×")
    if resumed := by_job["killed and resumed"]:
        kills, equal = resumed[max(resumed)]["kills"], all(row["equal"] for row in resumed.values())
        add(
            f"{max(resumed):,} samples after SIGKILL, equal to uninterrupted ones",
            "2 times",
            kills,
            equal,
            "kills",
        )
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| | to reach | measured | reached |", "|---|---|---|---|"]
    for row in found:
        reached = "yes" if row["reached"] else "no"
        lines.append(
            f"| {row['what']} | {row['to_reach']} {row['unit']} | {row['measured']:,} {row['unit']} | {reached} |"
        )
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5))
    for axis, column in zip(axes, ("seconds", "private_mib"), strict=True):
        for number, job in enumerate(JOBS):
            own = sorted((row["texts"], row[column]) for row in rows if row["job"] == job)
            line = {"label": job, "color": f"C{number % 10}", "linestyle": "-" if number < 10 else "--"}
            axis.plot(*zip(*own, strict=True) if own else ((), ()), marker="o", **line)
        scale = "symlog" if column == "private_mib" else "log"
        axis.set(xscale="log", yscale=scale, xlabel="texts", ylabel=column)
        if column == "private_mib":
            axis.set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def write_results(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    found = targets(rows)
    result = {"rows": rows, "targets": found, "device": describe_device("cpu"), "versions": versions()}
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(table(found), encoding="utf-8")
    if can_plot():
        plot(rows, path.with_suffix(".png"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, help="numbers of texts; default 10,000 to 10 million")
    parser.add_argument(
        "--jobs", nargs="+", choices=JOBS, default=JOBS, help="default all; sampling up to a million texts"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="rows, targets and devices; a table and a plot beside it")
    parser.add_argument("--folder", type=Path, help="where corpora and caches stay; default nowhere")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK[0]} and {QUICK[1]} texts")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.job is not None:
        print(json.dumps(run_job(options.job, options.folder, options.sizes[0])))
        return
    rows: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        rows = json.loads(options.json.read_text(encoding="utf-8"))["rows"]
    for texts in options.sizes or (QUICK if options.quick else [10_000, 100_000, MILLION, 10 * MILLION]):
        with ExitStack() as stack:
            parent = options.folder or stack.enter_context(tempfile.TemporaryDirectory())
            folder = Path(parent) / str(texts)
            if not folder.exists():
                folder.mkdir(parents=True)
                write_corpus(folder / "texts.txt", texts, options.seed)
                write_corpus(folder / "some.txt", min(texts, SAMPLES), options.seed + 1)
                trained_tokenizer(folder)
            for job in options.jobs:
                if job in SAMPLING and texts > MILLION:
                    continue
                rows = [row for row in rows if (row["job"], row["texts"]) != (job, texts)]
                rows.append({"texts": texts, "job": job} | measured(job, folder, texts))
                print(json.dumps(rows[-1]), flush=True)
                if options.json is not None:
                    write_results(options.json, rows)
    print(table(targets(rows)))


if __name__ == "__main__":
    main()
