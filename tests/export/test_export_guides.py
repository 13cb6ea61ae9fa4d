"""An exported folder leads texts as the pipeline does, and refuses guides that are damaged."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")

from ld4lg_fast.data import generate_demo_texts
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.export.exporter import export_run
from ld4lg_fast.export.runtime import OnnxTextDiffusion, RuntimeInputError
from ld4lg_fast.export.runtime.command import main as command
from tests.export.export_models import MAKERS, saved
from tests.export.exported_folders import copied, seal

OPTIONS = {"num_inference_steps": 4, "sampler": "unipc", "seed": 5}
GUIDES = {"size": ["long", "short", None], "letters": [20, 40, 60]}
SCALES = {"size": 20, "letters": [5, 1, 0]}


@pytest.fixture(scope="module", params=["v2_bart", "v1_bart"])
def led(request, tokenizer, tmp_path_factory):
    """A pipeline with guides, and its exported folder."""
    pipe, texts = MAKERS[request.param](tokenizer), generate_demo_texts(40)
    quick = {"num_samples": 24, "decoding": DecodingConfig("greedy", 8)}
    pipe.learn_guide("size", texts, [("long", "short")[len(text) > 60] for text in texts], **quick)
    pipe.learn_guide("letters", texts, list(map(len, texts)), numeric=True, **quick)
    place = tmp_path_factory.mktemp("led")
    return pipe, export_run(saved(pipe, place), place / "out", validate=False)


def test_the_folder_leads_as_the_pipeline_does(led):
    pipe, folder = led
    model = OnnxTextDiffusion(folder, threads=1)
    assert model.guides().items() <= pipe.guides().items()
    decoding = DecodingConfig("greedy", max_length=12)
    given = {"guides": GUIDES, "guide_scales": SCALES, **OPTIONS}
    texts = model(3, batch_size=2, strategy="greedy", max_length=12, **given)
    assert texts == pipe(3, decoding=decoding, **given).texts
    assert texts != model(3, strategy="greedy", max_length=12, **OPTIONS)


def test_latents_are_led_by_the_same_numbers(led):
    pipe, folder = led
    model = OnnxTextDiffusion(folder, threads=1)
    wanted, seen = pipe.sample(3, guides=GUIDES, guide_scales=SCALES, **OPTIONS).latents, []
    sample = model.sample
    model.sample = lambda *args, **given: seen.append(sample(*args, **given)) or seen[-1]
    model(3, strategy="greedy", max_length=8, guides=GUIDES, guide_scales=SCALES, **OPTIONS)
    got, mask = map(torch.from_numpy, (seen[0][0], np.ones(1) if seen[0][1] is None else seen[0][1]))
    real = mask.bool().expand(got.shape[:2])
    torch.testing.assert_close(got[real], wanted[:, : got.shape[1]][real], rtol=1e-3, atol=1e-3)


def test_what_the_folder_does_not_have_is_refused_with_what_it_has(led, capsys):
    _, folder = led
    model = OnnxTextDiffusion(folder, threads=1)
    for guides, sentence in (
        ({"mood": 1}, "There is no guide 'mood'.* letters"),
        ({"size": "huge"}, "it has long, short"),
    ):
        with pytest.raises(RuntimeInputError, match=sentence):
            model(3, guides=guides, **OPTIONS)
    with pytest.raises(SystemExit):
        command(folder, ["--guide", "size=huge", "--threads", "1"])
    assert "There is no class 'huge' of the guide size; it has long, short" in capsys.readouterr().err


def test_the_command_of_the_folder_takes_guides(led, capsys):
    _, folder = led
    words = [
        "--num-samples",
        "2",
        "--num-inference-steps",
        "4",
        "--sampler",
        "unipc",
        "--seed",
        "5",
        "--threads",
        "1",
    ]
    words += ["--strategy", "greedy", "--max-length", "12", "--json", "-"]
    command(folder, [*words, "--guide", "size=long:20", "--guide", "letters=20:5"])
    texts = json.loads(capsys.readouterr().out)["texts"]
    given = {"guides": {"size": "long", "letters": 20}, "guide_scales": {"size": 20, "letters": 5}}
    model = OnnxTextDiffusion(folder, threads=1)
    assert texts == model(2, strategy="greedy", max_length=12, **given, **OPTIONS)


@pytest.mark.parametrize("change", ["shorter", "longer", "not finite"])
def test_damaged_numbers_are_refused(led, change, tmp_path):
    folder = copied(led[1], tmp_path / "folder")
    numbers = np.fromfile(folder / "guides.bin", "<f4")
    if change == "not finite":
        numbers[3] = np.nan
    else:
        numbers = numbers[:-1] if change == "shorter" else np.append(numbers, numbers[:1])
    numbers.tofile(folder / "guides.bin")
    seal(folder)
    with pytest.raises(RuntimeInputError, match="guides.bin is damaged"):
        OnnxTextDiffusion(folder, threads=1)
