"""Token states of a frozen language model on disk: their values, the choice of ``auto``, both stages, refusals."""

from types import SimpleNamespace

import pytest
import torch

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.training import autoencoder_training, main, state_cache
from tests.language_models import DECODER_ONLY, spread, tiny_decoder_only, tiny_encoder_decoder
from tests.training.small_runs import STEPS, cached, command, losses, printed, refused

KEPT, ANEW = "autoencoder.cache_states=true", "autoencoder.cache_states=false"


@pytest.fixture(scope="module")
def hub(tmp_path_factory, tokenizer):
    """Makes the options of a run around a tiny model, as a hub would hold it."""
    root = tmp_path_factory.mktemp("hub")

    def make(name):
        if not (root / name).exists():
            torch.manual_seed(0)
            maker = tiny_decoder_only if name in DECODER_ONLY else tiny_encoder_decoder
            spread(maker(name, len(tokenizer))).save_pretrained(root / name)
            tokenizer.save_pretrained(root / name)
        group = "causal" if name in DECODER_ONLY else "bart"
        return [f"autoencoder={group}", f"autoencoder.name_or_path={root / name}"]

    return make


@pytest.fixture
def encoded(monkeypatch):
    """How many texts the language model has read in training and for the latents, by a list that is added to."""
    counts = []
    encode = LanguageAutoencoder.encode

    def counted(self, ids, mask, states=None):
        if states is None:
            counts.append(len(ids))
        return encode(self, ids, mask, states)

    monkeypatch.setattr(LanguageAutoencoder, "encode", counted)
    return counts


@pytest.mark.parametrize("name", ["qwen3", "bart"])
def test_training_from_states_on_disk_is_the_same_within_bf16(name, hub, tmp_path, encoded):
    command(tmp_path / "anew", *hub(name), ANEW)
    in_every_step = sum(encoded)
    encoded.clear()
    drop, kept = state_cache.drop_states, []

    def seen(session):
        kept.extend(sorted((session.run.cache / "states").glob("*.safetensors")))
        drop(session)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ld4lg_fast.training.denoiser_training.drop_states", seen)
        command(tmp_path / "kept", *hub(name), KEPT)
    assert kept and not kept[0].parent.exists(), (
        "nothing reads the states after the second stage has its latents"
    )
    # The 60 training texts and the batches of 16 are left out; validation and reconstruction are encoded as before.
    assert in_every_step - sum(encoded) == 60 + STEPS * 16
    for stage in ("autoencoder", "diffusion"):
        for kind in ("loss", "validation_loss"):
            anew, from_disk = (losses(tmp_path / run, stage, kind) for run in ("anew", "kept"))
            assert anew.keys() == from_disk.keys()
            for step, loss in anew.items():
                assert from_disk[step] == pytest.approx(loss, rel=0.02)
    assert losses(tmp_path / "anew", "autoencoder") != losses(tmp_path / "kept", "autoencoder"), "bf16 rounds"
    torch.testing.assert_close(cached(tmp_path / "kept"), cached(tmp_path / "anew"), rtol=0.1, atol=0.1)


def test_intact_states_are_used_again_and_those_of_other_texts_are_not(hub, tmp_path, monkeypatch):
    run = tmp_path / "run"
    written = []
    encode = state_cache.cached_sources.__globals__["encode_sources"]

    def counted(autoencoder, tokens, max_len, session, texts):
        written.append(len(texts))
        return encode(autoencoder, tokens, max_len, session, texts)

    monkeypatch.setitem(state_cache.cached_sources.__globals__, "encode_sources", counted)
    command(run, *hub("llama"), KEPT, "train.stage=autoencoder")
    assert sum(written) == 60
    main(
        ["resume=true", f"hydra.run.dir={run}", "train.autoencoder.steps=8", "autoencoder.cache_states=auto"]
    )
    assert sum(written) == 60 and max(losses(run, "autoencoder")) == 8
    shard = next((run / "cache" / "states").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1])
    main(["resume=true", f"hydra.run.dir={run}", "train.stage=all"])
    assert sum(written) == 120, "damaged states are computed again, for the latents"


def measured(once=1.0, again=1.0, write=0.1, read=0.1, step=2.0):
    return lambda stage, session: (once, again, write, read, step)


# The demo corpus has 60 texts, read 6 · 16 / 60 = 1.6 times, and once more for the second stage.
CHOICES = [
    (measured(), 10**12, True),
    (measured(read=2.0), 10**12, False),
    (measured(write=2.0), 10**12, False),
    (measured(once=4.0, again=0.1), 10**12, False),
    (measured(), 10**5, False),
]


@pytest.mark.parametrize(("seconds", "free", "kept"), CHOICES)
def test_auto_compares_seconds_and_bytes_and_says_so(seconds, free, kept, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(state_cache, "_measured", seconds)
    monkeypatch.setattr(state_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    chosen = []
    choose = state_cache.chosen_states

    def seen(*arguments):
        chosen.append(choose(*arguments))
        return chosen[-1]

    monkeypatch.setattr(autoencoder_training, "chosen_states", seen)
    said = printed(command, tmp_path / "run", *hub("llama"))
    assert (chosen[0] is not None) == kept
    assert said.count("autoencoder.cache_states=auto: in about 1.6 passes, token states take") == 1
    assert f"they are {'kept' if kept else 'computed'}." in " ".join(said.split())


def test_auto_expects_as_many_passes_as_the_time_limit_leaves(hub, tmp_path, monkeypatch):
    """A pass takes 60 / 16 · 160 = 600 seconds, so that half of ten minutes are half a pass."""
    monkeypatch.setattr(state_cache, "_measured", measured(step=160.0))
    options = ("train.max_minutes=10", "train.autoencoder_share=0.5", "train.autoencoder.steps=2")
    said = printed(command, tmp_path / "run", *hub("llama"), *options, "train.stage=autoencoder")
    assert "in about 0.5 passes" in said


def test_auto_measures_one_batch_before_the_first_step(hub, tmp_path):
    said = printed(command, tmp_path / "run", *hub("llama"), "train.stage=autoencoder")
    again = printed(main, ["resume=true", f"hydra.run.dir={tmp_path / 'run'}", "train.autoencoder.steps=8"])
    assert "goes on after step 6" in again and "cache_states" not in again
    assert "autoencoder.cache_states=auto: in about 1.6 passes" in said
    assert not [path for path in (tmp_path / "run" / "cache").iterdir() if "measured" in path.name]


def test_a_model_that_is_trained_has_no_states_to_keep(hub, tmp_path):
    said = printed(command, tmp_path / "run", *hub("llama"), "autoencoder.freeze_lm=false")
    assert "cache_states" not in said


REFUSED = [
    ("", "autoencoder.cache_states=always", "it must be auto, true or false"),
    ("true", "autoencoder.freeze_lm=false", "weights of the language model are trained"),
    ("true", "autoencoder.token_masking=0.2", "autoencoder.token_masking=0.2 changes tokens"),
    ("true", "recipe=blocks dataset.documents=true", "recipe=blocks cuts texts anew"),
    ("true", "autoencoder=scratch", "weights of the language model are trained"),
]


@pytest.mark.parametrize(("value", "options", "sentence"), REFUSED)
def test_states_that_change_are_refused_before_anything_is_written(
    value, options, sentence, hub, tmp_path, capsys
):
    given = [*hub("llama"), *options.split()]
    if "scratch" in options:
        given = [options]
    if value:
        given.append(f"+autoencoder.cache_states={value}" if "scratch" in options else KEPT)
    assert sentence in refused(capsys, command, tmp_path / "run", *given)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_named_in_a_sentence(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(state_cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    error = refused(capsys, command, tmp_path / "run", *hub("llama"), KEPT)
    assert "autoencoder.cache_states needs 0 MB" in error and "give autoencoder.cache_states=false" in error
