"""Whole runs with classes and sources, from training to inference, in this process."""

import shutil

import numpy as np
import pytest
import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export.runtime.similarity import minimum_bayes_risk
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.pipeline.sources import encode_sources
from ld4lg_fast.training.conditioned_latents import SourceStates
from ld4lg_fast.training.shards import Rows, open_rows
from tests.pipeline.conditioned_runs import (
    PLACES,
    class_options,
    infer,
    losses,
    pair_options,
    resumed,
    train,
    write_rows,
)
from tests.training.small_runs import refused


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    rows = [
        {
            "text": f"Where is pub {i}?",
            "source": f"Tell me, please, how to get to pub {i} by the {PLACES[i % 5]}.",
        }
        for i in range(60)
    ]
    return write_rows(tmp_path_factory.mktemp("corpus") / "pairs.jsonl", rows)


@pytest.fixture(scope="module")
def class_run(tmp_path_factory, labelled):
    run_dir = tmp_path_factory.mktemp("classes") / "run"
    return run_dir, train(run_dir, *class_options(labelled))


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory, pairs):
    run_dir = tmp_path_factory.mktemp("pairs") / "run"
    # Half of the batches lose their source, so that a few steps see both.
    return run_dir, train(run_dir, *pair_options(pairs), "recipe.context_drop_prob=0.5")


@pytest.mark.parametrize("kind", ["class_run", "pair_run"])
def test_a_resumed_run_with_conditions_has_bit_identical_losses(request, tmp_path, kind):
    original, run_dir = request.getfixturevalue(kind)[0], tmp_path / "run"
    resumed(original, run_dir)
    assert losses(run_dir) == losses(original)
    weights = "denoiser/model.safetensors"
    assert (run_dir / weights).read_bytes() == (original / weights).read_bytes()


def test_classes_are_named_counted_and_steer_the_samples(class_run):
    run_dir, output = class_run
    assert "[cafe] " in output and "[pub] " in output
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    assert pipe.statistics.class_names == ("cafe", "pub")
    assert (
        sum(pipe.statistics.class_counts) == 54
        and pipe.statistics.class_counts[0] > pipe.statistics.class_counts[1]
    )
    content, printed = infer(run_dir, "generation.class_id=1", "generation.num_samples=3")
    assert content["classes"] == ["pub"] * 3 and printed.count("• [pub] ") == 3
    assert content["settings"]["sampler"] == "ddpm" and content["settings"]["guidance_scale"] == 1.0
    by_name, _ = infer(run_dir, "generation.class_name=Pub", "generation.num_samples=3")
    assert by_name["texts"] == content["texts"]
    nothing, printed = infer(run_dir, "generation.num_samples=3")
    assert nothing["classes"] == [None] * 3 and printed.count("• [no class] ") == 3
    plain, guided = (
        pipe.sample(3, num_inference_steps=3, class_id=1, guidance_scale=scale).latents
        for scale in (1.0, 3.0)
    )
    assert (plain - guided).abs().max() > 1e-3
    mixed = pipe.sample(3, num_inference_steps=3, class_id=[1, 0, 1]).latents
    torch.testing.assert_close(mixed[::2], plain[::2], rtol=1e-4, atol=1e-5)
    assert (mixed[1] - plain[1]).abs().max() > 1e-4


def test_without_dropped_classes_ids_come_from_the_training_texts(tmp_path, labelled):
    train(tmp_path / "run", *class_options(labelled), "recipe.class_drop_prob=0")
    content, _ = infer(tmp_path / "run", "generation.num_samples=60")
    share = content["classes"].count("cafe") / 60
    assert 0.45 < share < 0.85, "two thirds of the training texts are of this class"


def test_conditions_that_do_not_fit_are_refused(class_run, pair_run, labelled, tmp_path, capsys):
    run_dir = class_run[0]
    sentence = refused(capsys, infer, run_dir, "generation.class_id=2")
    assert "class_id 2 is out of range" in sentence and "0 cafe, 1 pub" in sentence
    assert "0 cafe, 1 pub" in refused(capsys, infer, run_dir, "generation.class_name=bar")
    both = refused(capsys, infer, run_dir, "generation.class_name=pub", "generation.class_id=1")
    assert "exclude each other" in both
    assert "must be an integer" in refused(capsys, infer, run_dir, "generation.class_id=pub")
    assert "without classes" in refused(capsys, infer, pair_run[0], "generation.class_id=0")
    assert "without classes" in refused(capsys, infer, pair_run[0], "generation.class_name=pub")
    assert "source texts" in refused(capsys, infer, run_dir, f"infer.source_file={labelled}")
    assert "source texts" in refused(capsys, infer, run_dir, "generation.num_candidates=2")
    plain = tmp_path / "plain.txt"
    plain.write_text("a text\n" * 60)
    unlabelled = ["dataset=custom", f"dataset.root={plain}", "recipe.class_conditional=true"]
    assert "no class labels" in refused(capsys, train, tmp_path / "run", *unlabelled)
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").iterdir())


def test_named_corpora_need_their_labels_unless_trained_without(tmp_path, capsys):
    rows = [{"sentence": f"A film number {i}."} for i in range(60)]
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / f"{split}.jsonl", rows)
    options = ["dataset=sst", f"dataset.root={tmp_path}"]
    assert "no class labels" in refused(capsys, train, tmp_path / "run", *options)
    train(tmp_path / "run", *options, "recipe.class_conditional=false")
    assert LatentDiffusion.load(tmp_path / "run" / "denoiser").denoiser.config.num_classes == 0


def test_sources_are_cached_attended_to_and_used(pair_run, tmp_path):
    run_dir, output = pair_run
    assert " → " in output
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    model = pipe.model
    assert model.is_seq2seq and model.source_max_len == 40 and model.denoiser.config.dim_context == 64
    (cached,) = open_rows(run_dir / "cache" / "sources").parts
    assert cached.dtype == torch.bfloat16 and cached.shape[1] == 64

    sources = tmp_path / "sources.txt"
    texts = ["Tell me, please, how to get to pub 7.", "Where is the station?"]
    sources.write_text("\n".join([*texts, ""]))
    content, printed = infer(run_dir, f"infer.source_file={sources}")
    assert content["sources"] == texts and len(content["texts"]) == 2 and "references" not in content
    # Consoles leave out the control characters that an untrained decoder writes.
    assert content["settings"]["guidance_scale"] == 2.0 and f"• {texts[1]} → " in printed

    asked, swapped = (
        pipe.sample(2, num_inference_steps=3, source=given).latents for given in (texts, texts[::-1])
    )
    assert (asked - swapped).abs().max() > 1e-3, "the source decides"
    alone = pipe.sample(1, num_inference_steps=3, source=texts[1], sample_ids=[1]).latents
    torch.testing.assert_close(alone, asked[1:], rtol=1e-4, atol=1e-4)
    norms = asked.norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, 8**0.5), msg="samples lie on the sphere")


def test_candidates_of_the_test_sources_and_the_choice_between_them(pair_run):
    content, _ = infer(pair_run[0], "generation.num_candidates=3", "generation.num_samples=2")
    assert len(content["references"]) == len(content["sources"]) == len(content["texts"]) == 2
    for text, group in zip(content["texts"], content["candidates"], strict=True):
        assert len(group) == 3 and text == group[minimum_bayes_risk(group)]
    asked = ["generation.num_candidates=3", "generation.num_samples=2"]
    surest, _ = infer(pair_run[0], *asked, "generation.choose_by=score")
    assert surest["candidates"] == content["candidates"]
    settings, pipe = surest["settings"], TextDiffusionPipeline.from_pretrained(pair_run[0])
    latents = pipe.sample(
        6,
        source=[source for source in surest["sources"] for _ in range(3)],
        sampler=settings["sampler"],
        num_inference_steps=settings["num_inference_steps"],
        seed=settings["seed"],
    ).latents
    candidates = [text for group in surest["candidates"] for text in group]
    best = pipe.confidences(latents, candidates).reshape(2, 3).argmax(dim=1).tolist()
    assert surest["texts"] == [group[k] for group, k in zip(surest["candidates"], best, strict=True)]


def test_source_states_on_disk_are_those_of_the_encoder(pair_run):
    run_dir, _ = pair_run
    autoencoder = LanguageAutoencoder.load(run_dir / "autoencoder")
    texts = ["Tell me, please.", "Where is the pub?"]
    states, mask = encode_sources(autoencoder, [texts[0], texts[1], texts[0]], 40, torch.device("cpu"))
    assert torch.equal(states[0], states[2]) and mask.shape == states.shape[:2]
    lengths = mask.sum(dim=1).tolist()
    parts = [states[i][mask[i]] for i in (0, 1)]
    kept = SourceStates(Rows(parts), np.array([0, lengths[0], lengths[0] + lengths[1]]))
    context, context_mask = kept.batch([1, 0])
    for row, i in enumerate((1, 0)):
        assert context_mask[row].sum() == lengths[i]
        torch.testing.assert_close(context[row, : lengths[i]], states[i, : lengths[i]])
    assert not context[~context_mask].any()


def test_sources_that_are_missing_are_refused(pair_run, class_run, pairs, tmp_path, capsys):
    run_dir = tmp_path / "run"
    shutil.copytree(pair_run[0], run_dir)
    config = run_dir / "config.yaml"
    config.write_text(config.read_text().replace(str(pairs), str(tmp_path / "gone.jsonl")))
    sentence = refused(capsys, infer, run_dir)
    assert "infer.source_file=FILE" in sentence and "gone.jsonl" in sentence
    assert "does not exist" in refused(capsys, infer, run_dir, f"infer.source_file={tmp_path / 'no.txt'}")
    few = refused(capsys, infer, run_dir, f"infer.source_file={pairs}", "generation.num_samples=99")
    assert "more than the 60 sources" in few
    assert "Unknown similarity" in refused(capsys, infer, run_dir, "generation.choose_by=taste")
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    for given, message in (
        (None, "writes from a source"),
        (["a", "b"], "2 sources for 1"),
        ([" "], "is blank"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipe(1, num_inference_steps=1, source=given)
    with pytest.raises(ConfigError, match="without source texts"):
        TextDiffusionPipeline.from_pretrained(class_run[0])(1, num_inference_steps=1, source="a")
    assert "recipe=v1 cannot" in refused(capsys, train, tmp_path / "v1", "recipe=v1", *pair_options(pairs))
    asked = ["dataset=custom", f"dataset.root={pairs}", "dataset.seq2seq=true"]
    assert "no source texts" in refused(capsys, train, tmp_path / "v1", *asked)


def test_targets_alone_can_be_learned(pairs, tmp_path):
    train(tmp_path / "run", "dataset=custom", f"dataset.root={pairs}", "train.stage=autoencoder")
    assert not (tmp_path / "run" / "cache" / "sources").exists()
