"""Runs exported to ONNX: the same texts as with PyTorch, without PyTorch; refusals."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tokenizers
import torch

from ld4lg_fast.cli import main as cli
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export import exporter, onnx_files, validation
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.graphs import make_graphs
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from ld4lg_fast.export.runtime.language_model import SPAN
from ld4lg_fast.kernels import backend
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.export.export_models import MAKERS, saved, v2_bart

ROOT = Path(__file__).parents[2]
SOURCES = ["The Eagle is a pub.", "A cafe near the river serves food.", "Blue Spice is a pub."]


@pytest.fixture(scope="module")
def export_once(tokenizer, tmp_path_factory):
    """A pipeline and the folder that it was exported to, by name."""
    made = {}

    def export(name: str) -> tuple[TextDiffusionPipeline, Path]:
        if name not in made:
            pipe, place = MAKERS[name](tokenizer), tmp_path_factory.mktemp(name)
            pipe.model.recipe["learned_times"] = (1 - np.linspace(0, 1, 65) ** 1.3).tolist()
            told: list[str] = []
            made[name] = pipe, export_run(saved(pipe, place), place / "out", say=told.append)
            assert "denoiser output" in told[0] and "decoder logits" in told[0]
        return made[name]

    return export


@pytest.fixture(params=list(MAKERS))
def exported(request, export_once):
    return export_once(request.param)


@pytest.fixture
def small(export_once):
    return export_once("v2_bart")


def load(folder: Path) -> OnnxTextDiffusion:
    return OnnxTextDiffusion(folder, threads=1)


def given(pipe: TextDiffusionPipeline, count: int) -> dict:
    return {"source": (SOURCES * count)[:count]} if pipe.model.is_seq2seq else {}


def test_the_folder_writes_the_sentences_of_the_pipeline(exported):
    pipe, folder = exported
    model, options = load(folder), given(pipe, 7)
    # Not DDPM: its first step multiplies rounding by 1,000, and random weights have tokens that are nearly equal: with
    # seed 3 a text of v1_t5 changes when PyTorch's own latents are moved by 1e-5.
    cases = [
        ("greedy", "ddim", 5, "time"),
        ("beam", "unipc", 5, "log_snr"),
        ("nucleus", "dpmpp_2m_sde", 9, "learned"),
    ]
    if pipe.model.denoiser.config.num_classes:
        options |= {"class_id": [0, 1, 2, 0, 1, 2, 0], "guidance_scale": 1.7}
        options |= {"guidance_interval": (0.3, 0.9)}
    for strategy, sampler, steps, spacing in cases:
        options |= {"sampler": sampler, "spacing": spacing, "seed": 5}
        decoding = DecodingConfig(strategy, max_length=15)
        wanted = pipe(7, num_inference_steps=steps, decoding=decoding, batch_size=3, **options).texts
        got = model(7, num_inference_steps=steps, strategy=strategy, max_length=15, **options)
        assert got == wanted
        assert len(set(got)) > 3, "sentences that are alike prove little"


@pytest.mark.parametrize("choice", ["bleu", "rougeL", "score"])
def test_the_decode_that_is_kept_is_that_of_the_pipeline(small, choice):
    pipe, folder = small
    latents = pipe.sample(6, num_inference_steps=3, sampler="ddim").latents
    several = {"strategy": "nucleus", "num_decodes": 4, "choose_decode": choice, "max_length": 15}
    wanted = pipe.decode(latents, DecodingConfig(**several), seed=5)
    model = load(folder)
    assert model.decode(latents.numpy(), rules=model.rules(**several), seed=5) == wanted
    single = pipe.decode(latents, DecodingConfig("nucleus", max_length=15), seed=5)
    assert wanted != single, "the first of each proves little"


def test_a_long_text_outgrows_its_cache_and_leaves_finished_ones_behind(tokenizer, tmp_path):
    pipe = v2_bart(tokenizer, max_len=40)
    with torch.no_grad():
        pipe.autoencoder.lm.final_logits_bias[0, tokenizer.eos_token_id] = 6.0
    folder = export_run(saved(pipe, tmp_path), tmp_path / "out", say=lambda sentence: None)
    latents = pipe.sample(12, num_inference_steps=3, sampler="ddim").latents
    model = load(folder)
    for strategy in ("greedy", "beam", "nucleus"):
        rules = {"strategy": strategy, "max_length": 40, "repetition_penalty": 1.0}
        decoding = DecodingConfig(**rules)
        wanted = pipe.decode(latents, decoding)
        assert model.decode(latents.numpy(), rules=model.rules(**rules)) == wanted
        lengths = sorted(map(len, pipe.autoencoder.generate(latents, decoding)))
        assert lengths[0] < SPAN and lengths[-1] > SPAN, lengths


def test_classes_and_lengths_are_sampled(exported):
    pipe, folder = exported
    options = given(pipe, 5)
    options |= {"sampler": "ddim", "seed": 1}
    wanted = pipe(5, num_inference_steps=3, decoding=DecodingConfig("greedy"), **options).texts
    got = load(folder)(5, num_inference_steps=3, strategy="greedy", batch_size=2, **options)
    assert got == wanted


@pytest.mark.parametrize(("sampler", "eta"), [(None, None), ("dpmpp_2m", None), ("ddim", 0.7)])
def test_latents_are_those_of_the_pipeline(exported, sampler, eta):
    pipe, folder = exported
    options, ids = given(pipe, 4), np.arange(4)
    few = {"num_inference_steps": 9, "sampler": sampler, "eta": eta, "seed": 2}
    wanted = pipe.sample(4, **few, **options)
    classes = None if wanted.class_ids is None else wanted.class_ids.numpy()
    sources = options.get("source")
    got, mask = load(folder).sample(ids, class_ids=classes, sources=sources, **few)
    latents = wanted.latents.numpy()[:, : got.shape[1]]
    if mask is not None:
        assert (mask == wanted.mask.numpy()[:, : mask.shape[1]]).all() and wanted.mask.sum() == mask.sum()
        latents, got = latents[mask], got[mask]
    np.testing.assert_allclose(got, latents, atol=1e-4 * max(1, np.abs(latents).max()))


def test_weights_are_stored_once(exported):
    pipe, folder = exported
    modules = (pipe.model.denoiser, pipe.autoencoder)
    parameters = sum(4 * tensor.numel() for module in modules for tensor in module.parameters())
    assert (folder / "weights.bin").stat().st_size < 1.02 * parameters + 4096 * 100
    for path in folder.glob("*.onnx"):
        onnx.checker.check_model(path)
        assert path.stat().st_size < 300_000


def test_validation_names_the_tensor_and_the_difference(exported):
    pipe, folder = exported
    weights = {
        "denoiser output": pipe.model.denoiser.output_proj.weight,
        "decoder logits": pipe.autoencoder.lm.get_decoder().get_input_embeddings().weight,
    }
    for name, weight in weights.items():
        with torch.no_grad():
            weight[0] += 0.1
        try:
            with pytest.raises(validation.ValidationError, match=f"{name} differs from PyTorch's by .*e-0"):
                validation.validate_folder(folder, pipe, "float32", print)
        finally:
            with torch.no_grad():
                weight[0] -= 0.1


def test_int8_is_smaller_and_near(small, tmp_path):
    pipe, folder = small
    shutil.copytree(folder, tmp_path / "int8")
    models = {path.stem: onnx_files.quantize(onnx.load(path)) for path in folder.glob("*.onnx")}
    onnx_files.write(models, tmp_path / "int8")
    told: list[str] = []
    validation.validate_folder(tmp_path / "int8", pipe, "int8", told.append)
    differences = [float(word.strip(",.")) for word in told[0].split() if "e-0" in word]
    assert len(differences) == 2 and all(1e-4 < value < 0.2 for value in differences), told
    sizes = [(place / "weights.bin").stat().st_size for place in (folder, tmp_path / "int8")]
    assert sizes[1] < 0.5 * sizes[0]


def test_lower_precisions_keep_float32_inputs_and_outputs(small):
    """The text decoder in float16: all its matrices; but latents and logits are float32, for the runtime.

    Vectors are no concern here: norms compute in float32 and keep theirs so.
    """
    # Converted first, as the export does: graphs hold fused copies of the weights in the pipeline's dtype.
    half = copy.deepcopy(small[0]).to(torch.float16)
    with backend.use_backend("reference"):
        models = {
            graph.name: onnx_files.to_onnx(graph).graph
            for graph in make_graphs(half)
            if graph.name in ("latents", "decoder")
        }
    for model in models.values():
        kinds = {tensor.data_type for tensor in model.initializer if len(tensor.dims) > 1}
        assert onnx.TensorProto.FLOAT16 in kinds and onnx.TensorProto.FLOAT not in kinds
    for door in (models["latents"].input[0], models["decoder"].output[0]):
        assert door.type.tensor_type.elem_type == onnx.TensorProto.FLOAT, door.name


def test_the_folder_needs_no_torch(small, tmp_path):
    """generate.py in an environment with only onnxruntime, tokenizers and numpy."""
    pipe, folder = small
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    versions = [f"{package.__name__}=={package.__version__}" for package in (onnxruntime, tokenizers, np)]
    pip = [python, "-m", "pip", "install", "-q", "--no-compile", *versions]
    installed = subprocess.run(pip, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"pip cannot install here: {installed.stderr.strip().splitlines()[-1]}")
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    texts = tmp_path / "texts.json"
    few = ["--num-samples", "6", "--seed", "1", "--num-inference-steps", "5", "--sampler", "ddim"]
    arguments = [*few, "--json", texts]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, moved / "generate.py", *arguments], capture_output=True, text=True, env=clean, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    wanted = pipe(6, num_inference_steps=5, seed=1, sampler="ddim").texts
    assert json.loads(texts.read_text())["texts"] == wanted and len(set(wanted)) > 3
    assert all(text in done.stdout for text in wanted)
    # The service of the docs, where the folder is called "exported".
    moved.rename(tmp_path / "exported")
    (example,) = re.findall(
        r"```python\n(import sys.*?ld4lg_runtime.*?)```", (ROOT / "docs" / "deploying.md").read_text(), re.S
    )
    served = [python, "-c", f"{example}\nprint(len(answer(2, seed=1)))"]
    done = subprocess.run(served, capture_output=True, text=True, env=clean, cwd=tmp_path)
    assert done.stdout == "2\n", done.stderr
    has_torch = subprocess.run([python, "-c", "import torch"], capture_output=True, env=clean)
    assert has_torch.returncode != 0


def command(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["ld4lg", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    printed = capsys.readouterr()
    return stopped.value.code, printed.err or printed.out


FIRST_ORDER = ("--sampler", "dpmpp_published", "--num-inference-steps", 1)


def test_commands_sample_and_refuse_in_one_sentence(small, tmp_path, monkeypatch, capsys):
    pipe, folder = small
    few = ("--num-samples", 2, "--num-inference-steps", 2, "--sampler", "ddim")
    code, printed = command(monkeypatch, capsys, "run-onnx", folder, *few, "--json", tmp_path / "texts.json")
    assert code == 0 or "error" not in printed
    assert (
        json.loads((tmp_path / "texts.json").read_text())["texts"]
        == pipe(2, num_inference_steps=2, sampler="ddim").texts
    )
    drawn = ("--strategy", "nucleus", "--top-k", 9, "--num-decodes", 3, "--choose-decode", "rougeL")
    command(monkeypatch, capsys, "run-onnx", folder, *few, *drawn, "--json", tmp_path / "texts.json")
    decoding = DecodingConfig("nucleus", top_k=9, num_decodes=3, choose_decode="rougeL")
    wanted = pipe(2, num_inference_steps=2, sampler="ddim", decoding=decoding).texts
    assert json.loads((tmp_path / "texts.json").read_text())["texts"] == wanted
    run_dir = folder.parent / "run"
    cut = shutil.copytree(folder, tmp_path / "cut")
    with open(cut / "weights.bin", "r+b") as file:
        file.truncate(1000)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text('{"format": 1, "files": {}}')
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.json").write_text("[]")
    for arguments, sentence in (
        (("export", run_dir, folder), "exists and is not empty"),
        (("export", run_dir, tmp_path / "new", "--precision", "int4"), "Unknown precision 'int4'"),
        (("export", run_dir, "/dev/null/new"), "out_dir: nothing can be written in /dev/null"),
        (("export", tmp_path / "cut", tmp_path / "new"), "not a finished run"),
        (("run-onnx", tmp_path / "nothing"), "does not exist"),
        (("run-onnx", tmp_path / "foreign"), "no folder that ld4lg export wrote"),
        (("run-onnx", tmp_path / "old"), "has the format 1; this runtime reads format 2"),
        (("run-onnx", cut), "weights.bin has 1000 bytes instead of"),
        (("run-onnx", folder, "--provider", "CUDAExecutionProvider"), "has no provider"),
        (("run-onnx", folder, "--class-id", 1), "trained without classes"),
        (("run-onnx", folder, "--source", "a"), "trained without source texts"),
        (("run-onnx", folder, "--guidance-scale", 2), "needs a model with classes"),
        (("run-onnx", folder, "--num-inference-steps", 0), "num_inference_steps is 0"),
        (("run-onnx", folder, "--guidance-interval", 0.5, 0.2), "guidance_interval is (0.5, 0.2)"),
        (("run-onnx", folder, *few, *FIRST_ORDER), "at least 2 steps"),
    ):
        code, printed = command(monkeypatch, capsys, *arguments)
        assert code == 2 and sentence in printed and printed.count("\n") == 1, printed
        assert printed.startswith("error: ")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))


def test_what_the_installation_lacks_is_named(small, monkeypatch):
    pipe, folder = small
    monkeypatch.setattr(onnxruntime, "__version__", "1.14.1")
    with pytest.raises(RuntimeInputError, match="1.14.1 is too old; install 1.22 or newer"):
        OnnxTextDiffusion(folder)
    monkeypatch.undo()
    # A provider that is listed but cannot start: onnxruntime itself would fall back in silence.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    with pytest.raises(RuntimeInputError, match="CUDAExecutionProvider could not be started"):
        OnnxTextDiffusion(folder)


def test_models_that_cannot_be_exported_are_refused(tokenizer):
    pipe = v2_bart(tokenizer)
    pipe.autoencoder.lm.generation_config.suppress_tokens = [5]
    with pytest.raises(ConfigError, match=r"suppress_tokens=\[5\] has no counterpart"):
        exporter.folder_config(pipe, "float32")
    pipe.autoencoder.lm.config.model_type = "pegasus"
    with pytest.raises(ConfigError, match="'pegasus' cannot be exported"):
        make_graphs(pipe)
