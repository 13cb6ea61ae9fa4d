"""Evaluations that cannot be made are refused in one sentence, with exit code 2."""

import pytest

from tests.evaluation.evaluated_runs import run_test


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluation.frontier_steps=[0]"],
            "evaluation.frontier_steps is [0]; it must be a list, as in [1,2], each entry a whole number from 1",
        ),
        (
            ["evaluation.frontier_guidance=[a]"],
            "evaluation.frontier_guidance is ['a']; it must be a list, as in [1,2], each entry a finite number",
        ),
        (["evaluation.frontier_guidance=[1,2]"], "needs a class-conditional or sequence-to-sequence model"),
    ],
)
def test_frontiers_that_cannot_be_are_refused(run_dir, monkeypatch, capsys, overrides, message):
    with pytest.raises(SystemExit):
        run_test(monkeypatch, run_dir, *overrides)
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["generation.num_samples=19"],
            "has 18 test texts, too few to measure 19 samples against; ask for at most",
        ),
        (
            ["generation.num_samples=0"],
            "generation.num_samples is 0; it must be a whole number from 1 to 2147483647.",
        ),
        (["generation.num_candidates=2"], "needs a sequence-to-sequence model"),
        (["generation.class_id=3"], "class_id 3 was given, but this model was trained without classes"),
        (
            ["generation.class_name=odd"],
            "class_name 'odd' was given, but this model was trained without classes",
        ),
        (["generation.strategy=[]"], "generation.strategy is empty"),
        (["generation.strategy=[beams]"], "Unknown decoding strategy 'beams'"),
        (["generation.sampler=euler"], "Unknown sampler 'euler'"),
        (["evaluation.seeds=[1,1]"], "evaluation.seeds=[1, 1] must be different numbers"),
        (
            ["evaluation.reference_seed=-1"],
            "evaluation.reference_seed is -1; it must be a whole number from 0 to",
        ),
        (["evaluation.split=train"], "evaluation.split=train is unknown; choose one of test, validation."),
        (["evaluation.batch_size=0"], "evaluation.batch_size is 0"),
        (["evaluation.seed=1"], "There is no option evaluation.seed"),
        (["dataset.root=/nowhere"], "/nowhere does not exist"),
        (["infer.dtype=float7"], "Unknown dtype 'float7'"),
        (["infer.ckpt_path=checkpoints/epoch_100"], "does not exist in RUN; this run has no checkpoints"),
        (["infer.output_dir=/nowhere"], "The run directory /nowhere does not exist"),
    ],
)
def test_bad_input_exits_with_2_and_one_sentence(run_dir, monkeypatch, capsys, overrides, message):
    with pytest.raises(SystemExit) as stopped:
        run_test(monkeypatch, run_dir, *overrides)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.replace("RUN", str(run_dir)) in error
    assert error.startswith("error: ") and error.count("\n") == 1


def test_a_missing_checkpoint_is_told_apart_from_those_that_exist(run_dir, monkeypatch, capsys):
    for stage, step in (("diffusion", 20), ("diffusion", 40), ("autoencoder", 10)):
        folder = run_dir / "checkpoints" / stage / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    for given, trouble in (
        ("diffusion/step_30", "does not exist"),
        ("autoencoder/step_10", "holds no averaged denoiser"),
    ):
        with pytest.raises(SystemExit):
            run_test(monkeypatch, run_dir, f"infer.ckpt_path=checkpoints/{given}")
        error = capsys.readouterr().err
        assert trouble in error
        assert "this run has checkpoints/diffusion/step_20, checkpoints/diffusion/step_40." in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "generation.class_id=3",
            "class_id 3 is out of range; this model has the classes 0 calm, 1 loud, 2 odd.",
        ),
        ("generation.class_id=-1", "class_id -1 is out of range"),
        ("generation.class_name=mad", "There is no class 'mad'"),
        ("generation.num_samples=7", "has 6 test texts of class 2, too few to measure 7 samples"),
    ],
)
def test_classes_that_cannot_be_measured(class_run, monkeypatch, capsys, override, message):
    asked = ["generation.class_id=2"] if "num_samples" in override else []
    with pytest.raises(SystemExit):
        run_test(monkeypatch, class_run, *asked, override)
    assert message in capsys.readouterr().err


def test_a_model_with_classes_needs_labelled_texts(class_run, monkeypatch, capsys):
    config = class_run / "config.yaml"
    config.write_text(config.read_text().replace("label_column: label", "label_column: null"))
    with pytest.raises(SystemExit):
        run_test(monkeypatch, class_run)
    assert "has no class labels" in capsys.readouterr().err
