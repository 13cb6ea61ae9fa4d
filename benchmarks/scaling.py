"""Seconds and memory of a corpus against its number of texts: reading it, opening it again, tokens, memorization.

python benchmarks/scaling.py --sizes 10000 100000 1000000 --json RESULT.json

The corpora are generated from a seed. Every job is a process of its own. Its memory is what it has beyond its imports:
``private_mib``, the peak of memory that no other process shares (sampled), and ``peak_mib``, with the mapped files
that it has touched, which the system takes back when it needs room. ``datasets`` is the same work by `load_dataset`
and `map` with the same tokenizer.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from harness import can_plot, describe_device, versions

JOBS = ("read", "open", "tokenise", "first batch", "memorization", "datasets read", "datasets tokenise")
WORDS, TEXT_WORDS = 5000, (8, 34)
MAX_LEN, BATCH, SAMPLES, VOCABULARY = 64, 64, 1000, 8192
READ_FIRST = 50_000  # texts that the tokenizer is trained on


def write_corpus(path: Path, num_texts: int, seed: int) -> None:
    """Lines of words whose frequencies fall as 1 / rank."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number:x}" for number in range(WORDS)])
    chances = 1 / np.arange(1, WORDS + 1)
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, num_texts, 10_000):
            lengths = rng.integers(*TEXT_WORDS, min(10_000, num_texts - start))
            drawn = words[rng.choice(WORDS, int(lengths.sum()), p=chances / chances.sum())]
            parts = np.split(drawn, np.cumsum(lengths)[:-1])
            file.writelines(f"{' '.join(part)}\n" for part in parts)


class Memory:
    """Peaks of a process's memory while the context is open, in MiB beyond what it had before."""

    def __enter__(self) -> "Memory":
        self.private = self._before = _status("RssAnon")
        self._whole = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        self.start = time.perf_counter()
        return self

    def _sample(self) -> None:
        while not self._over.wait(0.01):
            self.private = max(self.private, _status("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start
        self._over.set()
        self._thread.join()

    def row(self) -> dict:
        return {
            "seconds": round(self.seconds, 3),
            "private_mib": round(self.private - self._before, 1),
            "peak_mib": round(_status("VmHWM") - self._whole, 1),
        }


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def work(job: str, folder: Path) -> Callable[[], object]:
    """A job, with everything imported that it needs."""
    import datasets

    from ld4lg_fast.data import load_text_dataset, shuffled_batches, tokenize_texts
    from ld4lg_fast.evaluation.cache import ArrayCache
    from ld4lg_fast.evaluation.ngrams import TrainingNgrams, memorization, words_of

    corpus, tokenizer = folder / "texts.txt", trained_tokenizer(folder)
    held_out = {"validation": str(folder / "some.txt"), "test": str(folder / "some.txt")}

    def read() -> object:
        return load_text_dataset("custom", files={"train": str(corpus)} | held_out)

    def tokens() -> object:
        return tokenize_texts(read().train.texts, tokenizer, MAX_LEN, folder / "tokens")

    def first_batch() -> object:
        found = tokens()
        return [found[i] for i in shuffled_batches(len(found), BATCH, lengths=found.lengths)[0]]

    def memorized() -> object:
        training = TrainingNgrams(read().train.texts, ArrayCache(folder / "ngrams"))
        return memorization(
            words_of((folder / "some.txt").read_text(encoding="utf-8").splitlines()), training.hashes
        )

    def by_datasets() -> object:
        return datasets.load_dataset("text", data_files=str(corpus), split="train", keep_linebreaks=False)

    def mapped() -> object:
        def ids(rows: dict) -> dict:
            return {"ids": tokenizer(rows["text"], truncation=True, max_length=MAX_LEN)["input_ids"]}

        return by_datasets().map(ids, batched=True, num_proc=os.cpu_count(), remove_columns="text")

    jobs = (read, read, tokens, first_batch, memorized, by_datasets, mapped)
    return dict(zip(JOBS, jobs, strict=True))[job]


def trained_tokenizer(folder: Path) -> object:
    from transformers import AutoTokenizer

    from ld4lg_fast.data import train_bpe_tokenizer

    if not (folder / "tokenizer").exists():
        with open(folder / "texts.txt", encoding="utf-8") as file:
            texts = [line.strip() for _, line in zip(range(READ_FIRST), file, strict=False)]
        train_bpe_tokenizer(texts, VOCABULARY).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)


def measured(job: str, folder: Path) -> dict:
    """The row of a job, done by a new process; that of memorization is the second, which finds its index."""
    command = [sys.executable, __file__, "--job", job, "--folder", str(folder)]
    cache = os.environ | {"HF_DATASETS_CACHE": str(folder / "hub")}
    for _ in range(1 + (job == "memorization")):
        done = subprocess.run(command, env=cache, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


def plot(rows: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for axis, column in zip(axes, ("seconds", "private_mib"), strict=True):
        for job in JOBS:
            own = [row for row in rows if row["job"] == job]
            axis.plot([row["texts"] for row in own], [row[column] for row in own], "o-", label=job)
        axis.set(
            xscale="log", yscale="symlog" if column == "private_mib" else "log", xlabel="texts", ylabel=column
        )
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job is not None:
        from ld4lg_fast.data import corpus_cache

        corpus_cache.LEAST_BYTES = 0
        job = work(options.job, options.folder)
        with Memory() as memory:
            job()
        print(json.dumps(memory.row()))
        return
    rows = []
    for size in options.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_corpus(folder / "texts.txt", size, options.seed)
            write_corpus(folder / "some.txt", SAMPLES, options.seed + 1)
            trained_tokenizer(folder)
            for job in JOBS:
                rows.append({"texts": size, "job": job} | measured(job, folder))
                print(*(f"{value:>{12 if isinstance(value, float) else 20}}" for value in rows[-1].values()))
    if options.json is not None:
        result = {"rows": rows, "device": describe_device("cpu"), "versions": versions()}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        if can_plot():
            plot(rows, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()
