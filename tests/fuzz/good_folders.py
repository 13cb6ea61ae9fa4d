"""Makes the unchanged folder that a fuzzer starts from; a script, so that any installed ld4lg_fast can make its own.

python good_folders.py KIND TARGET, where KIND is

* ``shipped``: a copy of the model that ships (recipe v3, a Perceiver, nucleus sampling);
* ``shipped_other``: another run whose parts have the same sizes;
* ``classes``: a tiny one of recipe v1 with classes and beam search, random weights;
* ``trained``: a tiny one that was trained for two steps, with its checkpoints, caches and logs;
* ``exported``, ``exported_other``, ``exported_classes``: these as exported folders.
"""

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

import ld4lg_fast
from ld4lg_fast import DecodingConfig, LanguageAutoencoder, LatentDiffusion, TextDiffusionPipeline

SHIPPED = Path(ld4lg_fast.__file__).parent / "shipped_models" / "e2e-small"


def main(kind: str, target: Path) -> None:
    if kind.startswith("exported"):
        from ld4lg_fast.export.exporter import export_run

        with tempfile.TemporaryDirectory() as temporary:
            run = Path(temporary) / "run"
            MAKERS[kind.replace("exported", "shipped").replace("shipped_classes", "classes")](run)
            export_run(run, target, validate=False)
    else:
        MAKERS[kind](target)


def shipped(target: Path) -> None:
    shutil.copytree(SHIPPED, target)


def shipped_other(target: Path) -> None:
    """A model of the same sizes: other weights, two exchanged words of the vocabulary, other lengths and decoding."""
    shutil.copytree(SHIPPED, target)  # with the file of settings, which is no part of the model
    pipe = TextDiffusionPipeline.from_pretrained()
    generator = torch.Generator().manual_seed(0)
    for module in (pipe.autoencoder, pipe.model):
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator) * parameter.detach().std().nan_to_num()
            parameter.data += 0.05 * noise
        module.half()
    pipe.model.latent_mean += 0.1
    pipe.autoencoder.tokenizer = _exchanged(pipe.autoencoder.tokenizer)
    counts = pipe.statistics.length_counts
    pipe.statistics = replace(pipe.statistics, length_counts=(*counts[:-1], counts[-1] + 7))
    pipe.decoding = replace(pipe.decoding, top_p=0.9)
    pipe.save_pretrained(target)


def _exchanged(tokenizer):
    """The tokenizer with two words of its vocabulary exchanged."""
    import json

    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    words = content["model"]["vocab"]
    first, second = sorted(words, key=words.get)[-2:]
    words[first], words[second] = words[second], words[first]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    return tokenizer


def classes(target: Path) -> None:
    from ld4lg_fast.data import generate_demo_texts, train_bpe_tokenizer

    torch.manual_seed(0)
    tokenizer = train_bpe_tokenizer(generate_demo_texts(100), vocab_size=300)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    autoencoder = LanguageAutoencoder.from_scratch(tokenizer, lm, None, max_len=16)
    recipe = {
        "version": "v1",
        "objective": "pred_x0",
        "loss_type": "l1",
        "self_condition_prob": 0.5,
        "class_drop_prob": 0.1,
        "beta_schedule": "linear",
        "num_train_timesteps": 50,
    }
    sizes = {"dim": 64, "depth": 1, "dim_latent": 64, "max_len": 16, "num_classes": 2, "dropout": 0.0}
    model = LatentDiffusion.create(recipe, sizes)
    for module in (autoencoder, model):
        for parameter in module.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    model.set_statistics(torch.randn(50, 16, 64))
    pipe = TextDiffusionPipeline(autoencoder, model)
    pipe.statistics = replace(
        pipe.statistics,
        length_counts=(0, 0, 0, 4, 5, 6, 5, 4, 3),
        class_names=("first", "second"),
        class_counts=(10, 17),
        origin="made up",
        num_truncated=0,
    )
    pipe.decoding = DecodingConfig("beam", num_beams=3, no_repeat_ngram_size=2)
    pipe.save_pretrained(target)


TRAINING = (
    *("dataset=demo", "dataset.limit=200", "dataset.max_len=32", "model=tiny", "model.language_model.dim=64"),
    *("model.language_model.vocab_size=300", "model.perceiver.num_latents=4", "model.perceiver.dim_latent=8"),
    *(
        "model.denoiser.dim=64",
        "model.denoiser.depth=2",
        "train.autoencoder.steps=2",
        "train.diffusion.steps=2",
    ),
    *("train.autoencoder.batch_size=16", "train.diffusion.batch_size=16", "train.mixed_precision=no"),
    *(
        "train.log_every=1",
        "train.checkpoint_every=1",
        "train.validation_texts=4",
        "train.validation_samples=2",
    ),
    "train.validation_num_inference_steps=2",
)


def trained(target: Path) -> None:
    from ld4lg_fast.training import main as train

    train([*TRAINING, f"hydra.run.dir={target}"])


MAKERS = {"shipped": shipped, "shipped_other": shipped_other, "classes": classes, "trained": trained}

if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
