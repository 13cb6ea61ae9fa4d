"""Run directories with random weights and their corpora, and the command that evaluates them; shared by the tests."""

import json
import sys

from ld4lg_fast.evaluation import command
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.statistics import RunStatistics
from tests.conftest import make_model

NAMES = ("calm", "loud", "odd")
NO_MODELS = ["mauve_model", "sentence_model", "perplexity_model", "bertscore_model"]
FAST = [
    "evaluation.reference_seed=null",
    *("generation.num_samples=6", "generation.num_inference_steps=2", "generation.strategy=[greedy]"),
    *("generation.max_length=10", *(f"evaluation.{name}=null" for name in NO_MODELS)),
]


def write_corpus(folder, with_labels=False, with_sources=False):
    """Eighteen texts a split, six a class."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"text": f"{split} text number {i} of a small pub near the river"} for i in range(18)]
        for i, row in enumerate(rows):
            row |= {"label": NAMES[i % 3]} if with_labels else {}
            row |= {"src": f"which {split} text has the number {i}"} if with_sources else {}
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(folder, autoencoder, corpus, num_classes=0, dim_context=0):
    """A run directory with random weights, as a finished training leaves it."""
    names = NAMES if num_classes else None
    model = make_model(num_classes=num_classes, dim_context=dim_context)
    TextDiffusionPipeline(autoencoder, model, RunStatistics(class_names=names)).save_pretrained(folder)
    columns = f"text_column: text, label_column: {'label' if names else 'null'}"
    columns += f", source_column: {'src' if dim_context else 'null'}"
    (folder / "config.yaml").write_text(
        f"dataset: {{name: custom, root: {corpus}, {columns}, max_len: 32}}\n"
    )
    return folder


def run_test(monkeypatch, run_dir, *overrides):
    """The content of the JSON file that the command writes."""
    out = run_dir.parent / "out.json"
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={out}", *FAST, *overrides]
    monkeypatch.setattr(sys, "argv", ["test.py", *arguments])
    command.main()
    return json.loads(out.read_text())
