"""The models that come with the package, and the command that needs no run directory."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ld4lg_fast import TextDiffusionPipeline
from ld4lg_fast.checkpoints import shipped
from ld4lg_fast.cli import main as cli
from ld4lg_fast.cli.infer import learn_and_keep_timesteps
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import CheckpointError
from ld4lg_fast.evaluation import command as evaluation
from ld4lg_fast.terminal.console import console
from tests.conftest import make_model
from tests.evaluation.evaluated_runs import FAST

ROOT = Path(__file__).parents[2]
LIMIT = 12 * 10**6  # bytes of all weights of a model that ships


@pytest.fixture
def pipe(autoencoder):
    return TextDiffusionPipeline(autoencoder, make_model(), decoding=DecodingConfig("greedy", 12))


@pytest.fixture
def tiny(pipe, tmp_path, monkeypatch):
    """A tiny model in the place of those that ship, in half precision as they are."""
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path / "e2e-small")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    return tmp_path / "e2e-small"


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["ld4lg", "sample", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code


def test_half_precision_is_loaded_as_float32(tiny, pipe):
    stored = load_file(tiny / "denoiser" / "model.safetensors")
    assert stored["denoiser.output_proj.weight"].dtype == torch.float16
    loaded = TextDiffusionPipeline.from_pretrained()
    weights = [*loaded.model.denoiser.parameters(), *loaded.autoencoder.parameters()]
    assert {p.dtype for p in weights} == {torch.float32}
    exact = pipe.to(dtype=torch.float32)  # what half precision left of it
    assert loaded(3, quality="draft").texts == exact(3, quality="draft").texts


def test_names_and_folders(tiny, tmp_path, monkeypatch):
    assert shipped.shipped_models() == ["e2e-small"]
    assert shipped.run_directory(None) == shipped.run_directory("e2e-small") == tiny
    monkeypatch.chdir(tmp_path)  # where a folder of that name is the user's own
    assert shipped.run_directory("e2e-small") == Path("e2e-small")
    with pytest.raises(CheckpointError, match="does not exist"):
        TextDiffusionPipeline.from_pretrained("e2e-large")


def test_a_model_that_ships_is_evaluated_again_and_again(tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tiny / "config.yaml").write_text("dataset: {name: demo, limit: 30}\n")
    few = [*FAST, "generation.num_samples=2"]
    for seed in (0, 1):
        monkeypatch.setattr(
            sys, "argv", ["test.py", "infer.output_dir=e2e-small", f"evaluation.seeds=[{seed}]", *few]
        )
        assert evaluation.main().parent == Path("outputs/e2e-small/evaluation")
    assert not (tiny / "evaluation").exists() and not Path("e2e-small").exists()


def test_results_of_a_hub_model_do_not_hide_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert shipped.results_folder("owner/name") == Path("outputs/owner--name")
    assert shipped.results_folder(Path("runs/mine")) == Path("runs/mine")


def test_where_no_model_ships(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "none")
    assert shipped.shipped_models() == []
    assert command(monkeypatch) == 2
    assert "No model came with this package; name the run directory" in capsys.readouterr().err


def test_a_model_keeps_how_it_is_decoded(tiny):
    loaded = TextDiffusionPipeline.from_pretrained()
    assert loaded.decoding == DecodingConfig("greedy", 12)
    output = loaded(2, quality="draft")
    assert output.texts == loaded.decode(output.latents, DecodingConfig("greedy", 12))
    assert output.texts != loaded.decode(output.latents, DecodingConfig("greedy", 24))


def test_sample_without_a_run_directory(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "texts.json"
    assert command(monkeypatch, "--num-samples", 3, "--seed", 1, "--best-of", 1, "--json", out) == 0
    content = json.loads(out.read_text())
    assert content["texts"] == TextDiffusionPipeline.from_pretrained()(3, seed=1, quality="draft").texts
    assert content["run"] == "e2e-small" and content["decoding"]["strategy"] == "greedy"
    assert "3 texts in" in capsys.readouterr().out
    assert command(monkeypatch, "--num-samples", 3, "--seed", 1, "--json", out) == 0
    best = TextDiffusionPipeline.from_pretrained()(3, best_of=4, seed=1, quality="draft").texts
    assert json.loads(out.read_text())["texts"] == best != content["texts"]


def test_a_model_that_ships_is_chosen_from_few_steps_and_ones_own_sampled_as_published(
    tiny, tmp_path, monkeypatch
):
    out, own = tmp_path / "texts.json", tmp_path / "outputs" / "own"
    shutil.copytree(tiny, own)
    for run, chosen in (((), ("draft", 4)), (("e2e-small",), ("draft", 4)), ((own,), ("paper", 1))):
        assert command(monkeypatch, *run, "--num-samples", 1, "--json", out) == 0
        settings = json.loads(out.read_text())["settings"]
        assert (settings["quality"], settings["best_of"]) == chosen


def test_times_are_not_learned_for_a_model_that_cannot_keep_them(tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(CheckpointError, match="e2e-small is no folder that the times could be kept in"):
        learn_and_keep_timesteps(Path("e2e-small"), torch.device("cpu"), 0)
    assert not list(Path().iterdir())


def test_json_on_standard_output_stands_alone(tiny, monkeypatch, capsys):
    monkeypatch.setattr(console, "quiet", False)  # which is put back afterwards
    assert command(monkeypatch, "--num-samples", 2, "--best-of", 1, "--json", "-") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["texts"] == TextDiffusionPipeline.from_pretrained()(2, quality="draft").texts
    assert not Path("-").exists()


def test_conditions_of_another_model_are_refused(tiny, monkeypatch, capsys):
    assert command(monkeypatch, "--class-name", "Sports") == 2
    assert (
        "class_name 'Sports' was given, but this model was trained without classes" in capsys.readouterr().err
    )
    assert command(monkeypatch, "--source", "A question?") == 2
    assert "trained without source texts" in capsys.readouterr().err


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """This tree as a wheel, without a compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "-q", "-C", "wheel.cmake=false"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(ROOT)], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.parametrize("name", shipped.shipped_models())
def test_what_ships(name, wheel):
    folder = shipped.FOLDER / name
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    assert {f"ld4lg_fast/shipped_models/{name}/{path.as_posix()}" for path in files} <= packed
    weights = list(folder.rglob("*.safetensors"))
    guides = {path.stem for path in weights if path.parent.name == "guides"}
    assert guides == {"area", "family", "food", "length", "name", "price", "rating"}
    assert len(weights) == 3 + len(guides) and sum(path.stat().st_size for path in weights) <= LIMIT
    card = (folder / "README.md").read_text()
    for said in ("CC BY-SA 4.0", "Novikova", "scripts/train.py", "MAUVE", "memorization"):
        assert said in card, said
    for path in files:
        assert b"/work" not in (folder / path).read_bytes(), path


def test_the_guides_that_ship_lead_to_what_their_texts_say(monkeypatch, tmp_path):
    out = tmp_path / "texts.json"
    asked = ["--guide", "area=riverside", "--guide", "price=cheap", "--num-samples", 12]
    assert command(monkeypatch, *asked, "--seed", 3, "--json", out) == 0
    texts = json.loads(out.read_text())["texts"]
    for words in (("river",), ("cheap", "less than £20", "low")):
        assert sum(any(word in text.lower() for word in words) for text in texts) >= 9


@pytest.mark.parametrize("name", shipped.shipped_models())
def test_a_model_that_ships_speaks_without_a_network(name, tmp_path):
    offline = {"HF_HUB_OFFLINE": "1", "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    out = tmp_path / "texts.json"
    subprocess.run(
        [sys.executable, "-c", "from ld4lg_fast.cli.main import main; main()", "sample", name]
        + ["--num-samples", "20", "--seed", "1", "--json", str(out)],
        check=True,
        cwd=tmp_path,
        env=os.environ | offline,
    )
    texts = json.loads(out.read_text())["texts"]
    assert len(set(texts)) == 20
    words = [text.split() for text in texts]
    assert all(len(row) >= 4 and text[0].isupper() for row, text in zip(words, texts, strict=True))
    known = {
        "restaurant",
        "pub",
        "food",
        "coffee",
        "place",
        "family",
        "customer",
        "rating",
        "price",
        "located",
    }
    assert all(known & {word.strip(".,").lower() for word in row} for row in words)
