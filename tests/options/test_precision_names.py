"""Precisions by either of their names, wherever one is given."""

import pytest
import torch

from ld4lg_fast import DecodingConfig
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.packed_weights import prepared_denoiser
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.export import exporter
from ld4lg_fast.options.groups import INFER, checked_groups
from ld4lg_fast.options.precisions import TORCH_NAMES, precision_name, torch_dtype
from ld4lg_fast.training.train_section import read_options
from tests.conftest import make_model
from tests.options.test_command_options import config_of


@pytest.mark.parametrize(("ours", "theirs"), TORCH_NAMES.items())
def test_both_names_mean_the_same(ours, theirs):
    assert precision_name(theirs) == precision_name(ours) == ours
    assert torch_dtype(ours) is torch_dtype(theirs) is getattr(torch, theirs)
    assert DecodingConfig(precision=theirs) == DecodingConfig(precision=ours)
    config = config_of("infer")
    config["infer"]["output_dir"] = "run"
    for name in (ours, theirs):
        config["infer"]["dtype"] = name
        assert checked_groups(config, INFER)["infer"]["dtype"] == name
    model = make_model()
    assert prepared_denoiser(model.denoiser, theirs) is prepared_denoiser(model.denoiser, ours)
    options = {"num_inference_steps": 2, "sampler": "ddim"}
    got, wanted = (sample_latents(model, 2, precision=name, **options) for name in (theirs, ours))
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", ["int8", "tf32", "fp8", "no", "auto", "half", "", None])
def test_what_has_one_name_keeps_it(name):
    assert precision_name(name) == name


def test_training_takes_either_name():
    section = config_of("train")["train"]
    for given, wanted in (("bf16", "bf16"), ("bfloat16", "bf16"), ("no", "no")):
        assert read_options(section | {"mixed_precision": given}).precision == wanted
    with pytest.raises(ConfigError, match="mixed_precision 'float16'; choose one of auto, no, bf16"):
        read_options(section | {"mixed_precision": "float16"})


def test_an_export_takes_either_name_and_stores_one(monkeypatch, tmp_path):
    stored = []

    def stop(pipe, precision):
        stored.append(precision)
        raise ConfigError("stop")

    monkeypatch.setattr(exporter, "folder_config", stop)
    monkeypatch.setattr(exporter.TextDiffusionPipeline, "from_pretrained", lambda run_dir: None)
    for name in ("fp32", "float32", "bf16", "bfloat16", "fp16", "float16", "int8"):
        with pytest.raises(ConfigError, match="stop"):
            exporter.export_run(tmp_path, tmp_path / "out", name)
    assert stored == ["float32", "float32", "bfloat16", "bfloat16", "float16", "float16", "int8"]
    with pytest.raises(ConfigError, match="Unknown precision 'half'; choose one of fp32, fp16, bf16, int8"):
        exporter.export_run(tmp_path, tmp_path / "out", "half")
