"""A command that fails leaves the disk as it was, byte by byte, and says in one sentence what to change."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ld4lg_fast import configs
from ld4lg_fast.checkpoints.stored_config import GROUPS
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.training import main
from ld4lg_fast.training.run_setup import check_config
from tests.training.small_runs import SMALLEST, command, refused
from tests.training.test_training_parts import composed

# An option of each kind, and a part of the sentence that refuses it.
VALUES = [
    ("seed=-1", "seed is -1; it must be a whole number from 0 to"),
    ("seed=1.5", "seed is 1.5"),
    ("seed=null", "seed is None"),
    ("recipe.schedule=foo", "recipe.schedule is 'foo'; it must be cosine, "),
    ("recipe.sampling_schedule=3", "recipe.sampling_schedule is 3"),
    ("recipe.schedule_scale=nan", "recipe.schedule_scale is nan"),
    ("recipe.objective=foo", "recipe.objective 'foo'; choose one of pred_noise"),
    ("recipe.loss_type=foo", "recipe.loss_type 'foo'; choose one of l1, l2"),
    ("recipe.loss_weighting=foo", "recipe.loss_weighting 'foo'"),
    (
        "recipe.self_condition_prob=7",
        "recipe.self_condition_prob is 7; it must be a finite number from 0 to 1",
    ),
    ("recipe.class_drop_prob=-0.1", "recipe.class_drop_prob is -0.1"),
    ("recipe.class_conditional=maybe", "recipe.class_conditional is 'maybe'; it must be auto, true or false"),
    ("model.denoiser.dim=100", "model.denoiser.dim is 100; it must be a multiple of 64"),
    ("model.denoiser.dim=64.5", "model.denoiser.dim is 64.5"),
    ("model.denoiser.depth=0", "model.denoiser.depth is 0; it must be a whole number from 1"),
    (
        "model.denoiser.num_dense_connections=50",
        "num_dense_connections=50 is too many for model.denoiser.depth=2",
    ),
    ("model.denoiser.dropout=1.5", "model.denoiser.dropout is 1.5"),
    ("+model.denoiser.heads=0", "model.denoiser.heads is 0"),
    ("+model.denoiser.foo=1", "There is no option model.denoiser.foo"),
    ("model.perceiver.num_latents=0", "model.perceiver.num_latents is 0"),
    ("model.perceiver.l2_normalize=3", "model.perceiver.l2_normalize is 3; it must be true or false"),
    ("model.language_model.encoder_layers=many", "model.language_model.encoder_layers is 'many'"),
    ("model.language_model.vocab_size=100", "vocab_size is 100; it must be a whole number from 260"),
    ("autoencoder.decoder_noise=2", "autoencoder.decoder_noise is 2"),
    ("dataset.num_classes=''", "dataset.num_classes is ''"),
    ("dataset.max_len=2", "dataset.max_len is 2; it must be a whole number from 3"),
    ("+dataset.source_max_len=2", "dataset.source_max_len is 2; it must be a whole number from 3"),
    ("+dataset.source_max_len=x dataset.seq2seq=false", "dataset.source_max_len is 'x'; it must be"),
    ("+dataset.root=", "dataset.root is ''; it must be a path"),
    ("+dataset.root=3", "dataset.root is 3; it must be a path"),
    ("+dataset.hub=", "dataset.hub is ''; it must be owner/name"),
    ("+dataset.files=", "dataset.files is ''; it must be a path"),
    ("+dataset.files.train=3", "dataset.files.train is 3; it must be a path"),
    ("+dataset.text_column=", "dataset.text_column is ''; it must be the name of a column"),
    ("+dataset.colour=1", "There is no option dataset.colour; dataset has"),
    ("+model.perciever.depth=1", "There is no option model.perciever (did you mean model.perceiver?)"),
    ("+traim.max_minutes=1", "There is no option traim (did you mean train?)"),
    ("+foo=1", "There is no option foo; the command has dataset, model,"),
    (
        "train.autoencoder=[3]",
        "train.autoencoder is a group of options; give those, as in train.autoencoder.steps=",
    ),
    ("decoding.strategy=best", "decoding.strategy 'best'; choose one of auto, greedy"),
    ("+decoding.choose_decode=3", "decoding.choose_decode 3; choose one of score"),
    ("+decoding.precision=fp7", "decoding.precision is 'fp7'; it must be one of"),
    ("decoding.min_length=null", "decoding.min_length is None"),
    ("~model.denoiser.dim", "model.denoiser.dim is missing"),
    ("model.denoiser=3", "model.denoiser=3 must be a group of options"),
    ("train=3", "train=3 must be a group of options"),
    ("train.autoencoder.learning_rate=nan", "train.autoencoder.learning_rate is nan"),
    ("train.diffusion.learning_rate=inf", "train.diffusion.learning_rate is inf"),
    ("train.diffusion.clip_norm=0", "train.diffusion.clip_norm is 0; it must be a finite number above 0"),
    ("train.diffusion.ema_decay=2", "train.diffusion.ema_decay is 2"),
    ("train.decoder.steps=0", "train.decoder.steps is 0"),
    ("train.checkpoint_every=0", "train.checkpoint_every is 0"),
    ("train.validate_every=-1", "train.validate_every is -1"),
    ("train.validation_samples=0", "train.validation_samples is 0"),
    ("train.max_minutes=inf", "train.max_minutes is inf"),
    ("train.mixed_precision=foo", "train.mixed_precision 'foo'"),
    ("train.distill_teacher_steps=6", "must be a multiple of train.distill_steps=4"),
    ("train.distill_from=3", "train.distill_from is 3"),
    ("train.finetune_decoder_from=''", "train.finetune_decoder_from is ''; it must be a name, or null"),
    ("autoencoder.name_or_path=''", "autoencoder.name_or_path is ''"),
    ("resume=maybe", "resume is 'maybe'; it must be true or false"),
    ("decoding.temperature=hot", "decoding.temperature is 'hot'"),
    ("decoding.min_length=2.5", "decoding.min_length is 2.5"),
]
# Of these only models, corpus and processes know.
TOGETHER = [
    (
        "train.autoencoder.batch_size=61 train.autoencoder.micro_batches=61",
        "60 training texts cannot be dealt to 1 processes",
    ),
    ("decoding.min_length=100", "decoding.min_length is 100; it must be at most max_length"),
    ("train.diffusion.micro_batches=5", "train.diffusion.batch_size=16 cannot be dealt to 1 processes"),
    ("recipe.loss_type=l1 recipe.loss_weighting=min_snr", "needs recipe.loss_type=l2, not l1"),
    ("~recipe.objective", "The recipe has no entry 'objective'"),
    ("recipe.class_conditional=true", "no class labels"),
    ("dataset.seq2seq=true", "no source texts"),
    ("dataset.limit=x", "dataset.limit is 'x'"),
    ("model.perceiver.dim_latent=100", "the latents 100; the larger width must be a multiple of 64"),
    (
        "model.denoiser.dim=65536 model.denoiser.depth=512",
        "model.denoiser and recipe: training so large a model needs",
    ),
    (
        "model.perceiver.num_latents=131072",
        "model.perceiver.num_latents=131072: training so large a model needs at least",
    ),
    (
        "model.perceiver.num_latents=131072 train.autoencoder.batch_size=1",
        "lower it, lower train.autoencoder.batch_size, or raise train.autoencoder.micro_batches",
    ),
    ("model.denoiser.heads=2", "There is no option model.denoiser.heads"),
    (
        "+model.denoiser.heads=2 model.denoiser.dim=102",
        "model.denoiser.dim is 102; it must be a multiple of 4",
    ),
    ("recipe=v1 recipe.beta_schedule=foo", "recipe.beta_schedule 'foo'"),
    ("recipe=v1 recipe.num_train_timesteps=2", "steps=3 is more than recipe.num_train_timesteps=2"),
    (
        "recipe.schedule=cosine recipe.schedule_scale=1000 train.validation_num_inference_steps=100000",
        "train.validation_num_inference_steps=100000: ",
    ),
    ("autoencoder.name_or_path=/no/such/folder", "'/no/such/folder' is neither a local folder"),
    ("train.cuda_graph=true", "needs a GPU"),
    ("train.stage=decoder", "give train.finetune_decoder_from=RUN_DIR"),
]


def tree(folder: Path) -> dict[str, str]:
    """What lies in a folder: each path, and the hash of each file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished):
    """A folder with a finished run ``run``, and one ``half`` that was stopped in its second stage."""
    folder = tmp_path_factory.mktemp("place")
    shutil.copytree(finished[0], folder / "run")
    shutil.copytree(folder / "run", folder / "half")
    shutil.rmtree(folder / "half" / "denoiser")
    shutil.rmtree(folder / "half" / "checkpoints" / "diffusion" / "step_6")
    return folder


def unchanged(place: Path, capsys, arguments: list[str]) -> str:
    """Runs a command that must fail and leave nothing changed; its sentence."""
    before = tree(place)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert tree(place) == before
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(("options", "said"), VALUES)
def test_values_that_cannot_be_are_refused(options, said, place, capsys):
    run_dir = place / ("run" if len(options) % 2 else "new/run")
    assert said in unchanged(place, capsys, [*SMALLEST, f"hydra.run.dir={run_dir}", *options.split()])


@pytest.mark.parametrize(
    "opening",
    [
        "resume=true hydra.run.dir=half",
        "train.stage=diffusion hydra.run.dir=run",
        "train.distill_from=run hydra.run.dir=new",
        "train.finetune_decoder_from=run hydra.run.dir=new",
    ],
)
@pytest.mark.parametrize(("options", "said"), VALUES[::9])
def test_values_that_cannot_be_are_refused_however_a_run_begins(
    opening, options, said, place, capsys, monkeypatch
):
    monkeypatch.chdir(place)
    assert said in unchanged(place, capsys, [*opening.split(), *options.split()])


@pytest.mark.parametrize(("options", "said"), TOGETHER)
def test_what_does_not_go_together_is_found_before_the_first_step(options, said, place, capsys):
    for run_dir in (place / "new" / "run", place / "run"):
        assert said in unchanged(place, capsys, [*SMALLEST, f"hydra.run.dir={run_dir}", *options.split()])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "resume=true hydra.run.dir=half model.denoiser.depth=3",
            "belongs to another model: denoiser.blocks.2",
        ),
        ("resume=true hydra.run.dir=half model.perceiver.num_latents=5", "num_latents=5 cannot be changed"),
        ("resume=true hydra.run.dir=new", "no run in new to resume"),
        ("train.stage=diffusion hydra.run.dir=run recipe.schedule=foo", "recipe.schedule is 'foo'"),
        (
            "train.stage=diffusion hydra.run.dir=run dataset.max_len=32",
            "dataset.max_len=32 cannot be changed",
        ),
        ("train.stage=diffusion hydra.run.dir=run recipe.class_conditional=true", "no class labels"),
        ("train.stage=diffusion hydra.run.dir=new", "needs a run directory with a trained autoencoder"),
        ("train.distill_from=run hydra.run.dir=run", "needs a run directory of its own"),
        ("train.distill_from=half hydra.run.dir=new", "is no finished run"),
        ("train.distill_from=run hydra.run.dir=new recipe.self_condition_prob=0", "prob=0 cannot be changed"),
        ("train.distill_from=run hydra.run.dir=new model.denoiser.dropout=0", "dropout=0 cannot be changed"),
        (
            "train.finetune_decoder_from=run hydra.run.dir=new train.decoder.batch_size=16 "
            "train.decoder.micro_batches=5",
            "cannot be dealt",
        ),
        ("train.finetune_decoder_from=run hydra.run.dir=new train.distill_from=run", "cannot be combined"),
        ("dataset=demo hydra.run.dir=run/config.yaml", "choose another directory"),
        ("dataset=demo hydra.run.dir=run/config.yaml/new", "choose another directory"),
        ("dataset=demo hydra.run.dir=.", "holds no run of ld4lg-fast"),
    ],
)
def test_going_on_teaching_and_adapting_change_nothing_where_they_fail(
    arguments, said, place, capsys, monkeypatch
):
    monkeypatch.chdir(place)
    assert said in unchanged(place, capsys, arguments.split())


def test_batches_are_no_larger_than_the_corpus(tmp_path, capsys):
    sizes = ["train.autoencoder.batch_size=1000", "train.diffusion.batch_size=61"]
    main([*SMALLEST, f"hydra.run.dir={tmp_path / 'run'}", *sizes])
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "There are only 60 training texts, so this run uses train.autoencoder.batch_size=60 and "
        "train.diffusion.batch_size=60." in said
    )


def test_a_teacher_with_classes_wants_a_corpus_with_classes(tmp_path, capsys):
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"text": f"text number {i} of this set", "label": "ab"[i % 2]} for i in range(60)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["dataset=custom", f"dataset.root={corpus}", "dataset.label_column=label"]
    main(
        [*(o for o in SMALLEST if not o.startswith("dataset")), *options, f"hydra.run.dir={tmp_path / 'run'}"]
    )
    capsys.readouterr()
    for option in ("distill_from", "finetune_decoder_from"):
        asked = [f"train.{option}={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'new'}"]
        sizes = ["train.decoder.batch_size=16", "dataset.label_column=null"]
        sentence = unchanged(tmp_path, capsys, [*asked, *sizes])
        assert f"train.{option}: its model has 2 classes, and the corpus none" in sentence


def test_a_damaged_first_stage_is_told_before_the_second_is_moved_aside(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    path = tmp_path / "run" / "autoencoder" / "perceiver.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    sentence = unchanged(tmp_path, capsys, ["train.stage=diffusion", f"hydra.run.dir={tmp_path / 'run'}"])
    assert "perceiver.safetensors is damaged" in sentence and "to have it made again" in sentence


def test_all_options_of_the_packaged_configs_are_known():
    for recipe in ("v1", "v2", "v3"):
        for model in ("tiny", "small", "small-seq2seq", "base"):
            config = composed(f"recipe={recipe}", f"model={model}")
            check_config(OmegaConf.to_container(config, resolve=True))
    with pytest.raises(ConfigError, match="There is no option recipe.foo"):
        check_config(OmegaConf.to_container(composed("+recipe.foo=1"), resolve=True))


def packaged(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(configs.__file__).parent / group).glob("*.yaml"))


CHOICES = sorted({f"{group}={name}" for group in GROUPS for name in packaged(group)})


@pytest.mark.parametrize("choice", CHOICES)
def test_every_option_of_the_packaged_configs_has_a_rule(choice):
    needed = ["dataset.documents=true"] if choice == "recipe=blocks" else []
    values = OmegaConf.to_container(composed(choice, *needed), resolve=True)
    check_config(values)

    def check_each(section: dict, name: str):
        for key, value in section.items():
            whole = f"{name}.{key}".lstrip(".")
            if isinstance(value, dict) and whole != "dataset.files":
                check_each(value, whole)
            else:
                section[key] = [[]]  # which no option may be
                with pytest.raises(ConfigError, match=re.escape(whole)):
                    check_config(values)
                section[key] = value

    check_each(values, "")


def test_a_folder_named_as_a_tracker_is_no_tracker(tmp_path, monkeypatch, capsys):
    (tmp_path / "wandb").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "pip install wandb" in refused(capsys, command, tmp_path / "run", "train.wandb=true")
