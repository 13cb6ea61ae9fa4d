"""Losses of the published training loop and of this library's, from the same weights, batches and draws.

python benchmarks/loss_parity.py [--steps 100] [--batch-size 16] [--json FILE]

Both stages of a small model on the demo corpus, without dropout; ours in float32 and under bfloat16 autocast. With
--json the curves are drawn beside the file.
"""

import argparse
import json
from pathlib import Path

import torch
from harness import can_plot, describe_device, versions

from benchmarks.reference.v2_autoencoder import PerceiverAutoencoder
from benchmarks.reference.v2_denoiser import DiffusionTransformer
from benchmarks.training_models import STAGES
from benchmarks.training_parity import MAX_LEN, Parity
from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.data import generate_demo_texts, tokenize_texts, train_bpe_tokenizer
from ld4lg_fast.training.train_section import StageOptions

LM = {"dim": 192, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}


def small_models(options: StageOptions) -> Parity:
    """Models of about ``model=small``'s sizes with random weights, and 1,024 texts of the demo corpus."""
    texts = generate_demo_texts(1024)
    tokenizer = train_bpe_tokenizer(texts, vocab_size=1024)
    torch.manual_seed(0)
    lm = LanguageAutoencoder.from_scratch(tokenizer, LM, None, MAX_LEN).lm.requires_grad_(False).eval()
    perceiver = PerceiverAutoencoder(LM["dim"], 32, 1, 8, 8, MAX_LEN)
    network = DiffusionTransformer(192, 6, 3, 32, 8, dropout=0.0, num_dense_connections=0)
    return Parity(lm, tokenizer, perceiver, network, tokenize_texts(texts, tokenizer, MAX_LEN), options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--json", type=Path, help="where to write the losses; a plot comes beside it")
    arguments = parser.parse_args()
    options = StageOptions(arguments.steps, arguments.batch_size, 1e-3, 10, 0.01, 1.0, 0.9999)
    stages = {}
    for name in STAGES:
        models = small_models(options)
        stage, fp32 = models.ours(name)
        _, bf16 = models.ours(name, torch.autocast("cpu", torch.bfloat16))
        _, published = models.published(stage)
        stages[name] = {
            "losses": {
                kind: figures[:, 0].tolist()
                for kind, figures in (("published", published), ("ours, fp32", fp32), ("ours, bf16", bf16))
            },
            "largest_relative_difference": {
                kind: ((figures - published)[:, 0].abs() / published[:, 0]).max().item()
                for kind, figures in (("ours, fp32", fp32), ("ours, bf16", bf16))
            },
        }
        print(name, stages[name]["largest_relative_difference"])
    if arguments.json:
        result = {
            "batch": arguments.batch_size,
            "stages": stages,
            "device": describe_device("cpu"),
            "versions": versions(),
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
        if can_plot():
            _plot(stages, arguments.json.with_suffix(".png"))


def _plot(stages: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, 2), stages.items(), strict=True):
        for (kind, losses), style in zip(found["losses"].items(), ("-", "--", ":"), strict=True):
            axes.plot(range(1, len(losses) + 1), losses, style, label=kind, linewidth=1.5)
        axes.set(title=name, xlabel="step", ylabel="loss")
        axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
