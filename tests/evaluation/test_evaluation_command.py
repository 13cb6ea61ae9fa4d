"""scripts/test.py from a run directory to its JSON file, and what it says where that cannot work."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ld4lg_fast.checkpoints.tensors import load_weights, save_weights
from ld4lg_fast.cli import main as cli
from ld4lg_fast.evaluation import EvaluationSettings, command, evaluate_texts, run
from ld4lg_fast.pipeline.latent_operations import slerp
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from ld4lg_fast.terminal.console import console
from tests.conftest import make_model, randomize
from tests.evaluation.evaluated_runs import FAST, NAMES, run_test, write_corpus, write_run

ROOT = Path(__file__).parents[2]
COUNTING = EvaluationSettings(mauve_model=None, perplexity_model=None, bertscore_model=None)


def test_texts_figures_and_all_that_repeats_them(run_dir, monkeypatch, capsys):
    pytest.importorskip("spacy")
    strategies = "generation.strategy=[greedy,nucleus]"
    content = run_test(monkeypatch, run_dir, strategies, "evaluation.seeds=[0,1]")
    assert [row["name"] for row in content["rows"]] == [
        *("greedy", "nucleus", "test texts against validation", "test texts against train")
    ]
    for row in content["rows"][:2]:
        figure = row["metrics"]["diversity"]
        assert (
            len(figure["values"]) == 2 and figure["interval_95"][0] <= figure["mean"] and row["skipped"] == {}
        )
    reference = content["rows"][2]["metrics"]
    # "near the river" and its like are in the training set, what holds the split's name or the number is not.
    assert 0 < reference["memorization"]["mean"] < 1 and "std" not in reference["memorization"]
    assert set(content["texts"]) == {"seed 0", "seed 1"} and len(content["texts"]["seed 1"]["nucleus"]) == 6
    assert content["texts"]["seed 0"] != content["texts"]["seed 1"]
    assert content["references"]["texts"] == [
        f"test text number {i} of a small pub near the river" for i in range(6)
    ]
    assert content["versions"]["torch"] == version("torch")
    assert content["settings"]["generation"]["sampler"] == "ddpm", "the recipe's sampler is to be named"
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    options = {"num_inference_steps": 2, "seed": 1}
    decoding = run.Options.read(
        content["settings"]["generation"], content["settings"]["evaluation"], "v2"
    ).decodings
    assert pipe(6, decoding=decoding["nucleus"], **options).texts == content["texts"]["seed 1"]["nucleus"]
    printed = capsys.readouterr().out
    assert all(check["line"] in " ".join(printed.split()) for check in content["decoder_tolerance"]["checks"])
    assert "test texts against train" in printed and "out.json" in printed.replace("\n", "")


def test_metrics_without_their_models_are_skipped_in_output_and_file(run_dir, monkeypatch, capsys):
    content = run_test(monkeypatch, run_dir, "evaluation.perplexity_model=/nowhere/model")
    reason = "the model /nowhere/model does not exist: give an existing folder, .gguf file or hub name"
    assert content["rows"][0]["skipped"]["perplexity"] == reason
    assert "perplexity" not in content["rows"][0]["metrics"]
    assert f"perplexity skipped: {reason}." in capsys.readouterr().out


def test_references_are_chosen_at_random_or_are_the_first(run_dir, monkeypatch):
    first, one, same, other = (
        run_test(monkeypatch, run_dir, f"evaluation.reference_seed={seed}")["references"]["texts"]
        for seed in ("null", 0, 0, 1)
    )
    assert one == same and len({tuple(texts) for texts in (first, one, other)}) == 3
    assert len(set(one)) == 6 and all(text.startswith("test text") for text in one)


def test_the_default_file_lies_in_the_run_directory(run_dir, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["test.py", f"infer.output_dir={run_dir}", *FAST])
    command.main()
    assert [path.name for path in (run_dir / "evaluation").iterdir()] == ["ddpm_2_greedy_6_texts_seed_0.json"]


def test_json_on_standard_output_stands_alone(run_dir, monkeypatch, capsys):
    monkeypatch.setattr(console, "quiet", False)  # which is put back afterwards
    monkeypatch.setattr(sys, "argv", ["ld4lg", "evaluate", str(run_dir), "--json", "-", *FAST])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    (written,) = (run_dir / "evaluation").iterdir()
    assert stopped.value.code == 0 and capsys.readouterr().out == written.read_text()


def test_a_checkpoints_averaged_weights_are_evaluated(run_dir, monkeypatch):
    other = randomize(make_model(), seed=5)
    for folder in (run_dir / "checkpoints/diffusion/step_40", run_dir.parent / "elsewhere"):
        save_weights(other, folder / "ema.safetensors")
        (folder / "state.json").write_text("{}")
    plain = run_test(monkeypatch, run_dir)["texts"]
    relative = run_test(monkeypatch, run_dir, "infer.ckpt_path=checkpoints/diffusion/step_40")
    absolute = run_test(monkeypatch, run_dir, f"infer.ckpt_path={run_dir.parent}/elsewhere/ema.safetensors")
    pipe = TextDiffusionPipeline.from_pretrained(run_dir)
    load_weights(pipe.model, run_dir.parent / "elsewhere" / "ema.safetensors")
    decoding = run.Options.read(
        relative["settings"]["generation"], relative["settings"]["evaluation"], "v2"
    ).decodings
    expected = pipe(6, num_inference_steps=2, decoding=decoding["greedy"]).texts
    assert relative["texts"] == absolute["texts"] == {"seed 0": {"greedy": expected}} != plain
    assert relative["checkpoint"] == str(run_dir / "checkpoints/diffusion/step_40")


def test_classes_are_measured_against_their_own_texts(class_run, monkeypatch):
    content = run_test(monkeypatch, class_run)
    names = [row["name"] for row in content["rows"]]
    assert names[:4] == ["greedy", "greedy, calm", "greedy, loud", "greedy, odd"]
    assert [row["num_texts"] for row in content["rows"][:4]] == [6, 2, 2, 2]
    pipe = TextDiffusionPipeline.from_pretrained(class_run)
    options = run.Options.read(content["settings"]["generation"], content["settings"]["evaluation"], "v2")
    labels = content["references"]["labels"]
    same = pipe(6, num_inference_steps=2, class_id=labels, decoding=options.decodings["greedy"]).texts
    assert sorted(set(labels)) == [0, 1, 2] and content["texts"]["seed 0"]["greedy"] == same


@pytest.mark.parametrize("asked", ["generation.class_id=2", "generation.class_name=odd"])
def test_one_class(class_run, monkeypatch, asked):
    content = run_test(monkeypatch, class_run, asked)
    assert set(content["references"]["labels"]) == {content["references"]["labels"][0]}
    numbers = [int(text.split()[3]) for text in content["references"]["texts"]]
    assert len(numbers) == 6 and {number % 3 for number in numbers} == {NAMES.index("odd")}
    assert content["rows"][0]["name"] == "greedy" and content["rows"][0]["num_texts"] == 6


def test_a_frontier_over_steps_and_guidance_and_what_lies_between_texts(class_run, monkeypatch):
    pytest.importorskip("spacy")
    asked = ["evaluation.frontier_steps=[2,3]", "evaluation.frontier_guidance=[1,2]"]
    content = run_test(monkeypatch, class_run, *asked, "evaluation.interpolation=true")
    swept = {row["name"]: row for row in content["rows"] if "sampling_steps" in row}
    assert {(row["sampling_steps"], row["guidance_scale"]) for row in swept.values()} == {
        *((2, 1), (3, 1), (2, 2), (3, 2))
    }
    assert all(row["strategy"] == "greedy" and "diversity" in row["metrics"] for row in swept.values())
    texts = content["frontier_texts"]
    assert texts["2 steps, guidance 1"] == content["texts"]["seed 0"], "as the table's own"
    assert len({json.dumps(own) for own in texts.values()}) == 4
    (between,) = (row for row in content["rows"] if row.get("interpolated"))
    assert between["name"] == "greedy, halfway between real texts"
    pipe = TextDiffusionPipeline.from_pretrained(class_run)
    known = [f"validation text number {i} of a small pub near the river" for i in range(7)]
    latents, _ = pipe.encode(known)
    middle = torch.stack([slerp(*latents[i : i + 2], 0.5) for i in range(6)])
    decoding = run.Options.read(content["settings"]["generation"], content["settings"]["evaluation"], "v2")
    figures = evaluate_texts(
        pipe.decode(middle, decoding.decodings["greedy"]), content["references"]["texts"], settings=COUNTING
    )
    assert between["metrics"]["diversity"]["mean"] == pytest.approx(figures["metrics"]["diversity"])


def test_sequence_to_sequence_with_candidates(autoencoder, tmp_path, monkeypatch):
    pytest.importorskip("rouge_score")
    write_corpus(tmp_path / "corpus", with_sources=True)
    run_dir = write_run(tmp_path / "run", autoencoder, tmp_path / "corpus", dim_context=64)
    content = run_test(monkeypatch, run_dir, "generation.num_candidates=3", "generation.num_samples=4")
    rows = {row["name"]: row for row in content["rows"]}
    assert list(rows) == [
        *("greedy, first candidate", "greedy, surest"),
        *("greedy, minimum Bayes risk by bleu", "greedy, minimum Bayes risk by rougeL"),
        *("greedy, oracle by bleu", "greedy, oracle by rougeL"),
        *("greedy, for other sources", "copy of the source"),
    ]
    assert len(content["texts"]["seed 0"]["greedy"]) == 12
    # "which test text has the number 3" shares test, text, the, number and 3 with a reference of eleven words
    assert rows["copy of the source"]["metrics"]["rouge1"]["mean"] == pytest.approx(2 * 5 / (7 + 11))
    assert content["settings"]["generation"]["guidance_scale"] == 2.0
    one = run_test(monkeypatch, run_dir, "generation.num_samples=4")
    assert [row["name"] for row in one["rows"]] == [
        "greedy",
        "greedy, for other sources",
        "copy of the source",
    ]


def test_a_run_that_does_not_name_its_corpus(run_dir, monkeypatch, capsys):
    (run_dir / "config.yaml").unlink()
    with pytest.raises(SystemExit):
        run_test(monkeypatch, run_dir)
    assert "does not say which corpus it was trained on" in capsys.readouterr().err
    content = run_test(monkeypatch, run_dir, "dataset.name=demo", "dataset.limit=8")
    assert content["dataset"]["name"] == "demo" and len(content["references"]["texts"]) == 6


def test_two_processes_sample_the_same_texts(run_dir, monkeypatch):
    alone = run_test(monkeypatch, run_dir, "generation.strategy=[beam,nucleus]", "generation.num_samples=5")
    out = run_dir.parent / "two.json"
    # Accelerate's own --cpu starts one process; this is torchrun, and without a GPU the processes use gloo.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--main_process_port", "0"]
    arguments = [f"infer.output_dir={run_dir}", f"infer.output_file={out}", *FAST]
    arguments += ["generation.strategy=[beam,nucleus]", "generation.num_samples=5"]
    done = subprocess.run(
        [*launcher, str(ROOT / "scripts" / "test.py"), *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    together = json.loads(out.read_text())
    assert together["processes"] == 2 and together["texts"] == alone["texts"]
    assert done.stdout.count("Written to") == 1
