"""Published checkpoints become run directories that give the golden outputs."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from golden_cases import Case, compare
from golden_library_parts import denoiser_output, perceiver_outputs
from safetensors.torch import save_file
from typer.testing import CliRunner

from ld4lg_fast.cli.main import app
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.models import parameter_names
from tests.conftest import randomize
from tests.language_models import tiny_t5
from tests.published import published_checkpoints as fake
from tests.published.published_checkpoints import STATISTICS, Official, Unofficial, golden_cases

DATASETS = {0: "roc", 4: "ag_news"}


def check(case: Case, outputs: dict[str, torch.Tensor]) -> None:
    verdict = compare(case, outputs)
    assert verdict.good, f"{case.id}: {verdict.share:.4f} of the tolerance: {verdict.reason}"


@pytest.fixture
def official(tmp_path, tokenizer):
    return Official(tmp_path, tokenizer)


OFFICIAL_DENOISERS = golden_cases("official_denoiser")


def settings_of(case: Case) -> dict:
    """The arguments of the official command line that give this constructor."""
    c = case.constructor
    names = ("tx_dim", "tx_depth", "max_seq_len", "num_dense_connections", "self_condition", "scale_shift")
    dataset = "qqp" if c["seq2seq"] else DATASETS[c["num_classes"]]
    return {name: c[name] for name in names} | {
        "class_conditional": c["class_conditional"],
        "class_unconditional_prob": c["class_unconditional_prob"],
        "dataset_name": dataset,
    }


@pytest.mark.parametrize("name", OFFICIAL_DENOISERS)
def test_official_denoisers_give_the_golden_outputs(official, name):
    cases = OFFICIAL_DENOISERS[name]
    sizes = cases[0].constructor
    official.denoiser = cases[0].weights
    official.perceiver = fake.official_perceiver(64, sizes["latent_dim"], sizes["max_seq_len"])
    pipe = official.write(settings_of(cases[0])).do_import()
    for case in cases:
        with torch.no_grad():
            check(case, denoiser_output(pipe.model.denoiser, case))


OFFICIAL_AUTOENCODERS = {
    (name, l2): [case for case in cases if case.constructor["l2_normalize_latents"] == l2]
    for name, cases in golden_cases("official_autoencoder").items()
    for l2 in {case.constructor["l2_normalize_latents"] for case in cases}
}


@pytest.mark.parametrize(("name", "l2"), OFFICIAL_AUTOENCODERS)
def test_official_autoencoders_give_the_golden_outputs(tmp_path, tokenizer, name, l2):
    cases = OFFICIAL_AUTOENCODERS[name, l2]
    sizes = cases[0].constructor
    official = Official(tmp_path, tokenizer, sizes["dim_lm"])
    official.perceiver = cases[0].weights
    official.denoiser = fake.official_denoiser(sizes["dim_ae"], max_len=16)
    official.write({"max_seq_len": 16}, {"l2_normalize_latents": l2})
    pipe = official.do_import()
    assert pipe.model.diffusion.l2_normalized == l2 and pipe.autoencoder.max_len == sizes["max_seq_len"]
    for case in cases:
        with torch.no_grad():
            check(case, perceiver_outputs(pipe.autoencoder.perceiver, case))


UNOFFICIAL_DENOISERS = golden_cases("unofficial_denoiser")


@pytest.fixture
def unofficial(tmp_path, tokenizer):
    return Unofficial(tmp_path, tokenizer)


@pytest.mark.parametrize("shape", [(1,), ()])
@pytest.mark.parametrize("name", UNOFFICIAL_DENOISERS)
def test_unofficial_denoisers_give_the_golden_outputs(tmp_path, tokenizer, name, shape):
    unofficial = Unofficial(tmp_path, tokenizer, name)
    unofficial.std = unofficial.std.reshape(shape)
    pipe = unofficial.write().do_import()
    for case in unofficial.cases:
        with torch.no_grad():
            check(case, denoiser_output(pipe.model.denoiser, case))
    normalized = pipe.model.normalize(STATISTICS.inputs["hidden_states"])
    wanted = STATISTICS.wanted
    outputs = {"mean": pipe.model.latent_mean, "std": unofficial.std.reshape(wanted["std"].shape)}
    outputs |= {"normalized": normalized, "unnormalized": pipe.model.unnormalize(normalized)}
    outputs["unnormalized_from_raw"] = pipe.model.unnormalize(STATISTICS.inputs["hidden_states"])
    check(STATISTICS, outputs)
    assert pipe.model.latent_scale.shape == () and pipe.autoencoder.perceiver is None


def test_the_averaged_weights_are_taken_and_texts_come_out(official):
    mean, scale = torch.linspace(-1, 1, 8), torch.tensor([2.5])
    official.write({"normalize_latent": True}, mean=mean, scale=scale)
    pipe = official.do_import()
    torch.testing.assert_close(pipe.model.latent_mean, mean, rtol=0, atol=0)
    assert pipe.model.latent_scale == 2.5
    weights = parameter_names.to_published(
        pipe.model.denoiser.state_dict(), parameter_names.denoiser_names(pipe.model.denoiser.config)
    )
    assert all(torch.equal(weights[key], official.denoiser[key]) for key in official.denoiser)
    assert len(pipe(2, num_inference_steps=2).texts) == 2
    assert json.loads((official.out / "import.json").read_text())["step"] == 250000


def test_without_averaged_weights_the_last_ones_are_taken_with_a_word(official, capsys):
    official.write()
    state = fake.official_module(official.denoiser, official.lm)
    torch.save({"model": fake.prefixed("module.", state)}, official.run / "model.pt")
    pipe = official.do_import()
    assert torch.equal(pipe.model.denoiser.norm.weight, official.denoiser["norm.weight"])
    assert "no averaged weights" in capsys.readouterr().out


def test_the_language_model_has_the_checkpoints_weights(official):
    official.lm = randomize(type(official.lm)(official.lm.config), seed=5, std=0.3).eval()
    pipe = official.write(latent_args={"lm_mode": "ft"}).do_import()
    for name, tensor in official.lm.state_dict().items():
        assert torch.equal(pipe.autoencoder.lm.state_dict()[name], tensor), name
    assert pipe.autoencoder.freeze_lm is False


def test_only_the_positions_that_latents_take_are_kept(official):
    official.perceiver = fake.official_perceiver(64, dim_latent=8, num_latents=6)
    pipe = official.write().do_import()
    assert pipe.model.denoiser.config.max_len == 6
    z, time = torch.randn(2, 6, 8), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        whole = parameter_names.load_denoiser(official.denoiser)(z, time)
        torch.testing.assert_close(pipe.model.denoiser(z, time), whole, rtol=0, atol=0)


def test_settings_become_a_recipe(official):
    args = {
        "objective": "pred_x0",
        "loss_type": "smooth_l1",
        "train_schedule": "sigmoid",
        "sampling_schedule": "simple_linear",
        "scale": 0.5,
        "train_prob_self_cond": 0.25,
        "class_unconditional_prob": 0.2,
        "class_conditional": True,
        "dataset_name": "sst",
        "disable_dropout": True,
    }
    official.denoiser = fake.official_denoiser(8, 8, num_classes=2)
    pipe = official.write(args).do_import()
    process = pipe.model.diffusion
    assert (process.objective, process.loss_type) == ("pred_x0", "smooth_l1")
    assert (process.schedule.name, process.schedule.scale) == ("sigmoid", 0.5)
    assert (process.schedule_for_sampling.name, process.schedule_for_sampling.scale) == ("simple_linear", 0.5)
    assert (process.self_condition_prob, process.class_drop_prob) == (0.25, 0.2)
    assert pipe.model.denoiser.config.dropout == 0.0
    assert pipe.statistics.class_names == ("negative", "positive")
    assert pipe.statistics.class_counts is None and not pipe.statistics.length_counts
    config = yaml.safe_load((official.out / "config.yaml").read_text())
    assert config["groups"] == {"dataset": "sst", "model": "base", "autoencoder": "bart", "recipe": "v2"}
    assert config["recipe"]["class_conditional"] is True
    assert config["model"]["denoiser"] == {"dim": 64, "depth": 2, "num_dense_connections": 0, "dropout": 0.0}


def test_unofficial_settings_become_a_recipe(unofficial):
    unofficial.config["diffusion"] |= {"objective": "pred_noise", "loss_type": "l2", "timesteps": 50}
    unofficial.config["diffusion"]["beta"] = {"schedule": "sqrt"}
    pipe = unofficial.write(**fake.schedule_buffers("sqrt", 50)).do_import()
    process = pipe.model.diffusion
    assert (process.objective, process.loss_type, process.schedule.name) == ("pred_noise", "l2", "sqrt")
    assert process.schedule.num_train_timesteps == 50 and process.class_drop_prob == 0.1
    assert pipe.statistics.class_names == ("World", "Sports", "Business", "Sci/Tech")
    assert pipe.autoencoder.max_len == 8
    recipe = yaml.safe_load((unofficial.out / "config.yaml").read_text())["recipe"]
    assert (recipe["version"], recipe["beta_schedule"], recipe["num_train_timesteps"]) == ("v1", "sqrt", 50)


def test_lengths_and_classes_are_counted_where_the_corpus_is_at_hand(unofficial, tmp_path):
    corpus = tmp_path / "ag_news"
    corpus.mkdir()
    for split, count in (("train", 1200), ("test", 3)):
        rows = [{"description": "Cheap food.", "label": index % 4} for index in range(count)]
        (corpus / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pipe = unofficial.write().do_import(dataset_root=corpus)
    assert sum(pipe.statistics.class_counts) == sum(pipe.statistics.length_counts) == 200
    assert sum(pipe.statistics.length_counts[3:]) == 200
    assert len(pipe(2, sampler="ddim", num_inference_steps=2, class_id=3).texts) == 2


def test_the_hidden_states_of_a_language_model_can_be_the_latents(official):
    official.denoiser = fake.official_denoiser(dim_latent=64, max_len=16)
    official.write({"latent_model_path": None, "max_seq_len": 16, "enc_dec_model": str(official.lm_folder)})
    pipe = official.do_import(language_model=None)
    assert pipe.autoencoder.perceiver is None and pipe.autoencoder.max_len == 16
    shutil.rmtree(official.out)
    official.refused("names no autoencoder", autoencoder=official.latent_model)


def test_the_last_unofficial_checkpoint_is_found(unofficial, capsys):
    unofficial.write("epoch_050/pytorch_model_1.bin", x_mean=torch.zeros(8))
    unofficial.write("epoch_100/pytorch_model.bin", x_mean=torch.ones(8))
    assert unofficial.do_import().model.latent_mean.sum() == 8
    assert "averaged ones are in pytorch_model_1.bin" in capsys.readouterr().out
    shutil.rmtree(unofficial.out)
    chosen = unofficial.run / "checkpoints/epoch_050/pytorch_model_1.bin"
    assert unofficial.do_import(chosen).model.latent_mean.sum() == 0


def test_safetensors_without_tied_weights(unofficial):
    unofficial.write()
    state = fake.unofficial_module(
        unofficial.cases[0].weights, unofficial.lm, unofficial.mean, unofficial.std
    )
    tied = (
        "autoencoder.model.shared.weight",
        "autoencoder.lm_head.weight",
        "autoencoder.model.decoder.embed_tokens.weight",
    )
    state = {key: tensor.contiguous() for key, tensor in state.items() if key not in tied}
    save_file(state, unofficial.run / "checkpoints/model.safetensors")
    (unofficial.run / "checkpoints/pytorch_model_1.bin").unlink()
    lm = unofficial.do_import().autoencoder.lm
    assert torch.equal(lm.lm_head.weight, unofficial.lm.lm_head.weight)


def test_a_t5_and_its_source_encoder_in_bfloat16(official, tokenizer):
    official.lm = lm = randomize(tiny_t5(len(tokenizer)), std=0.3).eval()
    lm.save_pretrained(official.lm_folder)
    official.denoiser = fake.official_denoiser(8, 8, dim_context=64)
    encoder = lm.get_encoder().state_dict()
    official.module = {f"context_encoder.{name}": tensor.bfloat16() for name, tensor in encoder.items()}
    official.write({"dataset_name": "wmt14-de-en"})
    (official.run / "model.pt").rename(official.run / "best_model.pt")
    pipe = official.do_import()
    imported = pipe.autoencoder.lm.state_dict()
    assert all(torch.equal(imported[name], tensor) for name, tensor in lm.state_dict().items())
    assert yaml.safe_load((official.out / "config.yaml").read_text())["groups"]["autoencoder"] == "t5"
    assert len(pipe(1, source="Ein Haus am Fluss.", num_inference_steps=2).texts) == 1


def test_the_command(official):
    official.write()
    arguments = [
        "import-checkpoint",
        str(official.run),
        str(official.out),
        "--language-model",
        str(official.lm_folder),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "Imported the official checkpoint" in result.output and "ld4lg sample " in result.output
    model = LatentDiffusion.load(official.out / "denoiser")
    assert dataclasses.asdict(model.denoiser.config)["depth"] == 2
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, ConfigError) and again.exit_code != 0
