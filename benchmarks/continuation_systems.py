"""What goes on with prompts in `continuations.py`: this library, an autoregressive model, sequence-to-sequence v2.

Letters: B prompts, T tokens.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import torch
from harness import ROOT
from transformers import AutoTokenizer, GPT2LMHeadModel

from benchmarks.corpus_model import train_corpus_model
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.data import TextDataset
from ld4lg_fast.export.runtime.documents import cut_into_blocks

NO_LIMIT = 10**6  # of steps: time ends a training
END = "(end)"  # what the sequence-to-sequence model writes after a document


class System(Protocol):
    """A trained model that goes on with prompts."""

    def write(self, prompts: Sequence[str], max_new_tokens: int, seed: int, top_p: float) -> list[str]:
        """What it adds to each prompt."""


def run_training(run: Path, minutes: float, *overrides: str) -> Path:
    """The run directory, trained if it is not there yet."""
    if not (run / "denoiser" / "config.json").exists():
        command = [sys.executable, str(ROOT / "scripts" / "train.py"), f"hydra.run.dir={run}", *overrides]
        command += [f"train.max_minutes={minutes}", f"train.validate_every={NO_LIMIT}", "seed=0"]
        command += [f"train.{stage}.steps={NO_LIMIT}" for stage in ("autoencoder", "diffusion")]
        subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    return run


class Blocks:
    """Recipe ``blocks``."""

    def __init__(self, run: Path, quality: str, precision: str | None = None, batch_size: int = 64) -> None:
        self.pipe = TextDiffusionPipeline.from_pretrained(run)
        self.options = {"quality": quality, "precision": precision, "batch_size": batch_size}
        self.precision = precision

    @property
    def num_parameters(self) -> int:
        models = (self.pipe.autoencoder, self.pipe.model)
        return sum(weight.numel() for model in models for weight in model.parameters())

    def write(self, prompts: Sequence[str], max_new_tokens: int, seed: int, top_p: float) -> list[str]:
        decoding = DecodingConfig("nucleus", top_p=top_p, precision=self.precision)
        given = {"max_new_tokens": max_new_tokens, "seed": seed, "decoding": decoding}
        return self.pipe(prompt=list(prompts), **given, **self.options).texts


def sizes_of(num_parameters: int, vocabulary: int, positions: int) -> tuple[int, int]:
    """Width and layers of a GPT-2 with about as many parameters, its depth about a fiftieth of its width."""
    found = []
    for dim in range(64, 1025, 64):
        for layers in range(2, 13):
            count = 12 * layers * dim**2 + (vocabulary + positions) * dim
            found.append(
                (abs(count - num_parameters) / num_parameters + abs(layers - dim / 50) / 100, dim, layers)
            )
    return min(found)[1:]


class Autoregressive:
    """A GPT-2 trained from scratch on the documents, with its key/value cache, in ``precision``."""

    def __init__(
        self,
        folder: Path,
        dataset: TextDataset,
        like: Blocks,
        minutes: float,
        positions: int,
        precision: torch.dtype = torch.float32,
        batch_size: int = 64,
    ) -> None:
        self.tokenizer, self.batch_size = like.pipe.autoencoder.tokenizer, batch_size
        if not (folder / "config.json").exists():
            dim, layers = sizes_of(like.num_parameters, len(self.tokenizer), positions)
            model = train_corpus_model(
                dataset.train.texts,
                self.tokenizer,
                steps=NO_LIMIT,
                max_seconds=60 * minutes,
                dim=dim,
                layers=layers,
                max_len=positions,
                batch_size=32,
                learning_rate=1e-3,
            )
            model.save_pretrained(folder)
        self.model = GPT2LMHeadModel.from_pretrained(folder, dtype=precision, trust_remote_code=False).eval()

    @property
    def num_parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    @torch.inference_mode()
    def write(self, prompts: Sequence[str], max_new_tokens: int, seed: int, top_p: float) -> list[str]:
        torch.manual_seed(seed)
        texts: list[str] = []
        start, limit = self.tokenizer.bos_token_id, self.model.config.n_positions
        for first in range(0, len(prompts), self.batch_size):
            some = prompts[first : first + self.batch_size]
            rows = [self.tokenizer(text, add_special_tokens=False)["input_ids"] for text in some]
            rows = [[start, *row[-(limit // 2) :]] for row in rows]
            longest = max(map(len, rows))
            pad = self.tokenizer.pad_token_id
            ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
            mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
            most = min(max_new_tokens, limit - longest)
            options = {"do_sample": True, "top_k": 0, "top_p": top_p, "max_new_tokens": most}
            found = self.model.generate(ids, attention_mask=mask, pad_token_id=pad, **options)
            texts += self.tokenizer.batch_decode(found[:, longest:], skip_special_tokens=True)
        return texts


def write_pairs(folder: Path, dataset: TextDataset, like: Blocks, source_tokens: int) -> Path:
    """Files of pairs (text so far, next block), the last of each document with `END`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = like.pipe.autoencoder.tokenizer
    room = like.pipe.autoencoder.max_len - tokenizer.num_special_tokens_to_add()

    def count(texts: Sequence[str]) -> list[int]:
        return [len(row) for row in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    for split in ("train", "validation", "test"):
        blocks = cut_into_blocks(getattr(dataset, split).texts, count, room)
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as file:
            for start, end in pairwise(blocks.offsets.tolist()):
                for place in range(start + 1, end + 1):
                    source = so_far("".join(blocks.texts[start:place]), tokenizer, source_tokens)
                    text = blocks.texts[place].strip() if place < end else END
                    file.write(json.dumps({"source": source, "text": text}) + "\n")
    return folder


def so_far(text: str, tokenizer: AutoTokenizer, most: int) -> str:
    """The end of a text, at most that many tokens."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return text if len(ids) <= most else tokenizer.decode(ids[-most:])


class Seq2Seq:
    """Recipe v2, trained to write the next block of a text from its end so far."""

    def __init__(self, run: Path, quality: str, source_tokens: int, batch_size: int = 64) -> None:
        self.pipe = TextDiffusionPipeline.from_pretrained(run)
        self.options = {"quality": quality, "batch_size": batch_size}
        self.source_tokens = source_tokens

    @property
    def num_parameters(self) -> int:
        models = (self.pipe.autoencoder, self.pipe.model)
        return sum(weight.numel() for model in models for weight in model.parameters())

    def write(self, prompts: Sequence[str], max_new_tokens: int, seed: int, top_p: float) -> list[str]:
        tokenizer = self.pipe.autoencoder.tokenizer
        added, sizes = [""] * len(prompts), [0] * len(prompts)
        active = list(range(len(prompts)))
        decoding = DecodingConfig("nucleus", top_p=top_p)
        while active:
            sources = [so_far(prompts[row] + added[row], tokenizer, self.source_tokens) for row in active]
            given = {"source": sources, "sample_ids": active, "seed": seed, "decoding": decoding}
            texts = self.pipe(len(active), **given, **self.options).texts
            seed, left = seed + 1, []
            for row, text in zip(active, texts, strict=True):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"][: max_new_tokens - sizes[row]]
                if END in text or not ids:
                    continue
                added[row] += " " + tokenizer.decode(ids).strip()
                sizes[row] += len(ids)
                if sizes[row] < max_new_tokens:
                    left.append(row)
            active = left
        return added
