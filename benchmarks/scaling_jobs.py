"""The jobs of scaling.py, each for a process of its own. Letters: N latents, d latent width."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

WORDS, TEXT_WORDS = 5000, (8, 34)
READ_FIRST, VOCABULARY = 50_000, 8192  # texts that the tokenizer of the jobs on the texts is trained on
MAX_LEN, BATCH, SHOWN_TOKENS = 64, 64, 8
SMALLEST = (
    *("dataset=custom", "model=tiny", "model.language_model.vocab_size=4096", f"dataset.max_len={MAX_LEN}"),
    *("model.perceiver.num_latents=4", "model.perceiver.dim_latent=8", "train.mixed_precision=no"),
    *("train.autoencoder.steps=1", "train.diffusion.steps=1", "train.validation_texts=8"),
    *("train.validation_samples=2", "train.validation_num_inference_steps=2"),
)


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


def trained_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from ld4lg_fast.data import train_bpe_tokenizer

    if not (folder / "tokenizer").exists():
        with open(folder / "texts.txt", encoding="utf-8") as file:
            texts = [line.strip() for _, line in zip(range(READ_FIRST), file, strict=False)]
        train_bpe_tokenizer(texts, VOCABULARY).save_pretrained(folder / "tokenizer")
    return AutoTokenizer.from_pretrained(folder / "tokenizer", trust_remote_code=False)


class Memory:
    """Peaks of a process's memory while the context is open, in MiB beyond what it had before.

    ``private``: memory that no other process shares, sampled. The peak of all memory has the mapped files that were
    touched, too, which the system takes back when it needs room.
    """

    def __enter__(self) -> "Memory":
        self.private = self._before = _status("RssAnon")
        self._whole = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # VmHWM begins anew
        self._over = Event()
        self._thread = Thread(target=self._sample, daemon=True)
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

    def row(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "private_mib": round(self.private - self._before, 1),
            "peak_mib": round(_status("VmHWM") - self._whole, 1),
        }


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def corpus_job(job: str, folder: Path) -> Callable[[], object]:
    """A job on the texts alone, with everything imported that it needs."""
    import datasets

    from ld4lg_fast.data import load_text_dataset, shuffled_batches, tokenize_texts
    from ld4lg_fast.evaluation.cache import ArrayCache
    from ld4lg_fast.evaluation.ngrams import TrainingNgrams, memorization, words_of

    corpus, tokenizer = folder / "texts.txt", trained_tokenizer(folder)
    held_out = {"validation": str(folder / "some.txt"), "test": str(folder / "some.txt")}

    def read() -> Any:
        return load_text_dataset("custom", files={"train": str(corpus)} | held_out)

    def tokens() -> Any:
        return tokenize_texts(read().train.texts, tokenizer, MAX_LEN, folder / "tokens")

    def first_batch() -> object:
        found = tokens()
        return [found[i] for i in shuffled_batches(len(found), BATCH, lengths=found.lengths)[0]]

    def memorized() -> object:
        training = TrainingNgrams(read().train.texts, ArrayCache(folder / "ngrams"))
        return memorization(
            words_of((folder / "some.txt").read_text(encoding="utf-8").splitlines()), training.hashes
        )

    def by_datasets() -> Any:
        return datasets.load_dataset("text", data_files=str(corpus), split="train", keep_linebreaks=False)

    def mapped() -> object:
        def ids(rows: dict) -> dict:
            return {"ids": tokenizer(rows["text"], truncation=True, max_length=MAX_LEN)["input_ids"]}

        options: Any = {"batched": True, "num_proc": os.cpu_count(), "remove_columns": "text"}
        return by_datasets().map(ids, load_from_cache_file=False, **options)

    def tokens_before() -> object:
        return _tokens_before(list(read().train.texts), tokenizer)

    return {
        "read": read,
        "open": read,
        "tokenise": tokens,
        "tokenise as before": tokens_before,
        "first batch": first_batch,
        "memorization": memorized,
        "datasets read": by_datasets,
        "datasets tokenise": mapped,
    }[job]


def _tokens_before(texts: list[str], tokenizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """What this library did before corpora were memory-mapped: a call of the tokenizer, then Python lists."""
    rows, lengths = [], []
    for start in range(0, len(texts), 8192):
        chunk = texts[start : start + 8192]
        ids = [
            row[: MAX_LEN - 1] + row[-1:] if len(row) > MAX_LEN else row
            for row in tokenizer(chunk, return_attention_mask=False, verbose=False)["input_ids"]
        ]
        lengths += [len(row) for row in ids]
        rows.append(np.fromiter((token for row in ids for token in row), dtype=np.int32))
    return np.concatenate(rows), np.cumsum([0, *lengths], dtype=np.int64)


def training_job(job: str, folder: Path) -> Callable[[], dict[str, Any]]:
    """One step of a stage of the training command; a row with the seconds to the end of that step.

    Latents are random numbers, as their encoding is not what is measured.
    """
    import torch

    from ld4lg_fast.data.texts import Texts
    from ld4lg_fast.training import autoencoder_training, denoiser_training, latent_cache, main, preparation

    del autoencoder_training, denoiser_training, preparation  # imported before memory is counted
    stage = "autoencoder" if job == "first step" else "diffusion"
    files = f"train:{folder / 'texts.txt'},validation:{folder / 'some.txt'},test:{folder / 'some.txt'}"
    found: dict[str, Any] = {"texts_read": 0}
    options = [
        *SMALLEST,
        f"dataset.files={{{files}}}",
        f"hydra.run.dir={folder / 'run'}",
        f"train.stage={stage}",
    ]

    def random_latents(autoencoder: Any, tokens: Any, device: Any, texts: Any, *_: Any) -> Any:
        if len(texts) > BATCH:  # not those of the validation
            found["latents_encoded"] = found.get("latents_encoded", 0) + len(texts)
        generator = torch.Generator().manual_seed(int(texts[0]))
        rows = torch.randn(len(texts), autoencoder.num_latents, autoencoder.dim_latent, generator=generator)
        return torch.nn.functional.normalize(rows, dim=-1) * autoencoder.dim_latent**0.5

    latent_cache.encode_latents = random_latents
    read = Texts.__iter__

    def counted(texts: Texts) -> Any:
        for text in read(texts):
            found["texts_read"] += 1
            yield text

    Texts.__iter__ = counted  # type: ignore[method-assign]

    def run() -> dict[str, Any]:
        start = time.perf_counter()
        _after_first_loss(stage, lambda: found.setdefault("seconds", round(time.perf_counter() - start, 3)))
        main(options)
        return found

    return run


def _after_first_loss(stage: str, note: Callable[[], object]) -> None:
    from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
    from ld4lg_fast.training.diffusion_stage import DiffusionStage

    kind: Any = AutoencoderStage if stage == "autoencoder" else DiffusionStage
    loss = kind.loss

    def noted(self: Any, model: Any, batch: Any) -> Any:
        value = loss(self, model, batch)
        note()
        return value

    kind.loss = noted


def sampling_job(folder: Path, num_texts: int, name: str) -> Callable[[], object]:
    """`scripts/infer.py` into the file ``name``, of the model of the two first steps, one denoising step a text."""
    from ld4lg_fast.cli import infer

    sys.argv[1:] = [
        *(f"infer.output_dir={folder / 'run'}", f"infer.output_file={folder / name}"),
        *(
            f"generation.num_samples={num_texts}",
            "generation.num_inference_steps=1",
            "generation.sampler=ddim",
        ),
        *(
            "generation.strategy=greedy",
            f"generation.max_length={SHOWN_TOKENS}",
            f"generation.batch_size={max(1, min(512, num_texts // 8))}",
        ),
    ]
    return infer.main
