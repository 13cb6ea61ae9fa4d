"""The decoder trained on what the denoiser writes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.autoencoder.latent_augmentation import Draws
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.training import main
from ld4lg_fast.training.decoder_stage import RoundTrip
from tests.conftest import make_model
from tests.training.small_runs import SMALLEST, command, losses, refused

SIZES = ("train.decoder.steps=6", "train.decoder.batch_size=16")


def test_adapting_a_run(finished, tmp_path, capsys):
    run_dir, adapted_dir = finished[0], tmp_path / "adapted"
    asked = [f"train.finetune_decoder_from={run_dir}", *SIZES]
    command(adapted_dir, *asked)
    given, adapted = (TextDiffusionPipeline.from_pretrained(folder) for folder in (run_dir, adapted_dir))
    recipes = DecodingConfig("nucleus", no_repeat_ngram_size=None, repetition_penalty=None)
    assert given.decoding == adapted.decoding == recipes
    texts = ["The Punter is a pub.", "A coffee shop by the river."]
    assert torch.equal(given.encode(texts)[0], adapted.encode(texts)[0]), "the denoiser knows these latents"
    for part in ("perceiver.decoder", "lm.model.decoder.layers"):
        pairs = zip(
            given.autoencoder.get_submodule(part).parameters(),
            adapted.autoencoder.get_submodule(part).parameters(),
            strict=True,
        )
        assert all(not torch.equal(*pair) for pair in pairs if pair[0].ndim == 2), part
    weights = [load_file(folder / "denoiser" / "model.safetensors") for folder in (run_dir, adapted_dir)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert len(losses(adapted_dir, "decoder")) == 6 and (adapted_dir / "curves.png").stat().st_size > 1000
    assert json.loads((adapted_dir / "reconstruction.json").read_text())["step"] == 6
    capsys.readouterr()

    assert "train.finetune_decoder_from needs a run directory of its own" in refused(
        capsys, command, adapted_dir, *asked
    )
    assert "is no finished run" in refused(
        capsys, command, tmp_path / "other", f"train.finetune_decoder_from={tmp_path / 'no'}"
    )
    both = (*asked, f"train.distill_from={run_dir}")
    assert "cannot be combined" in refused(capsys, command, tmp_path / "other", *both)
    assert "give train.finetune_decoder_from=RUN_DIR" in refused(
        capsys, command, tmp_path / "other", "train.stage=decoder"
    )
    assert "train.decoder=3 must be a group of options" in refused(
        capsys, command, tmp_path / "other", "train.decoder=3"
    )


def test_more_steps_go_on_with_classes_and_sources_of_their_own(tmp_path, monkeypatch):
    corpus, asked = tmp_path / "corpus.jsonl", []
    rows = [{"text": f"text number {i}", "label": "ab"[i % 2], "source": f"number {i}"} for i in range(60)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = ("dataset.label_column=label", "dataset.source_column=source", "dataset.seq2seq=true")
    sizes = [option for option in SMALLEST if not option.startswith("dataset")]
    run_dir, adapted_dir = tmp_path / "run", tmp_path / "adapted"
    main([*sizes, "dataset=custom", f"dataset.root={corpus}", *columns, f"hydra.run.dir={run_dir}"])
    sample = TextDiffusionPipeline.sample

    def noted(self, *arguments, **options):
        asked.append((options.get("class_id"), options.get("source")))
        return sample(self, *arguments, **options)

    monkeypatch.setattr(TextDiffusionPipeline, "sample", noted)
    options = ("train.decoder.batch_size=16", "train.decoder.learning_rate=1e-4", "train.validate_every=9")
    main(
        [
            f"train.finetune_decoder_from={run_dir}",
            f"hydra.run.dir={adapted_dir}",
            "train.decoder.steps=2",
            *options,
        ]
    )
    main([f"hydra.run.dir={adapted_dir}", "resume=true", "train.decoder.steps=4"])
    assert losses(adapted_dir, "decoder").keys() == {1, 2, 3, 4}
    assert all(len(classes) == len(sources) for classes, sources in asked) and len(asked) >= 4
    assert all(
        int(s.split()[1]) % 2 == c
        for classes, sources in asked
        for c, s in zip(classes, sources, strict=True)
    )


def test_a_run_without_a_perceiver_is_refused(tmp_path, capsys):
    command(tmp_path / "run", "recipe=v1", "model.denoiser.dim=64")
    refusal = refused(
        capsys, command, tmp_path / "adapted", f"train.finetune_decoder_from={tmp_path / 'run'}", *SIZES
    )
    assert "is of recipe v1, which has no Perceiver" in refusal


@pytest.mark.parametrize("classes", [0, 2])
def test_a_round_trip_is_the_same_on_any_number_of_processes(autoencoder, classes):
    pipe = TextDiffusionPipeline(autoencoder, make_model(num_classes=classes))
    latents = torch.randn(6, *pipe.encode(["a pub"])[0].shape[1:])
    conditions = {"class_id": [0, 1, 0, 1, 1, 0]} if classes else {}

    def trip(rank, world_size):
        mine = {name: values[rank::world_size] for name, values in conditions.items()}
        draws = Draws(torch.Generator().manual_seed(3), rank, world_size)
        return RoundTrip(pipe, mine).augment_latents(latents[rank::world_size], draws)

    whole, parts = trip(0, 1), [trip(rank, 2) for rank in range(2)]
    together = torch.stack(parts, dim=1).flatten(0, 1)
    torch.testing.assert_close(together, whole, rtol=1e-4, atol=1e-4)
    kept = (whole == latents).all(dim=(1, 2))
    assert not kept.all(), "some have been on the way"
