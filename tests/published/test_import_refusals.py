"""What `ld4lg import-checkpoint` refuses: one sentence that names it, and nothing left behind."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from ld4lg_fast.errors import ConfigError
from tests.published import published_checkpoints as fake
from tests.published.published_checkpoints import Official, Unofficial


@pytest.fixture
def official(tmp_path, tokenizer):
    return Official(tmp_path, tokenizer)


@pytest.fixture
def unofficial(tmp_path, tokenizer):
    return Unofficial(tmp_path, tokenizer)


class Boom:
    """What a malicious file would run."""

    def __reduce__(self):
        return (Path.touch, (Path("boom"),))


def test_a_checkpoint_that_needs_pickle_is_refused_and_not_run(official, unofficial, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    official.write()
    torch.save({"ema": {}, "args": Boom()}, official.run / "model.pt")
    official.refused("unrestricted unpickling .* save its tensors alone")
    torch.save(
        {"transformer.norm.weight": Boom()}, unofficial.write().run / "checkpoints/pytorch_model_1.bin"
    )
    unofficial.refused("unrestricted unpickling .* save its tensors alone")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 torn"])
def test_a_damaged_file_is_refused(official, content):
    official.write()
    (official.run / "model.pt").write_bytes(content)
    official.refused("model.pt is damaged")


def test_keys_that_do_not_fit_are_named(official):
    del official.denoiser["norm.weight"]
    official.write().refused(r"model\.pt: The checkpoint lacks these tensors: norm\.weight")
    official.denoiser |= {"norm.weight": torch.ones(64), "extra.weight": torch.ones(3)}
    official.write().refused("no place here: extra.weight")
    official.denoiser = fake.official_denoiser(8, 8) | {"norm.weight": torch.ones(65)}
    official.write().refused(r"norm\.weight has the shape \(65,\), but the others ask for \(64,\)")
    official.denoiser = fake.official_denoiser(8, 8)
    official.module = {"decoder_loss.weight": torch.ones(3)}
    official.write().refused("no place here: decoder_loss.weight")
    official.module = {}
    del official.perceiver["perceiver_encoder.final_norm.bias"]
    official.write().refused("lacks these tensors: perceiver_encoder.final_norm.bias")


def test_keys_of_the_language_model_that_do_not_fit_are_named(official, tokenizer, tmp_path):
    official.write()
    path = official.latent_model / "model.pt"
    content = torch.load(path, weights_only=True)
    bias = content["model"].pop("final_logits_bias")
    torch.save(content, path)
    official.refused("lacks these tensors of its language model: final_logits_bias")
    content["model"] |= {"final_logits_bias": bias, "adapter.weight": bias}
    torch.save(content, path)
    official.refused("no place for these tensors: adapter.weight")
    del content["model"]["adapter.weight"]
    content["model"]["final_logits_bias"] = bias[:, 1:]
    torch.save(content, path)
    official.refused(r"final_logits_bias has the shape .* give the language model .* --language-model")
    fake.saved_bart(tmp_path / "wide", tokenizer, 128)
    official.refused("width 64, but .* is 128 wide", language_model=str(tmp_path / "wide"))


def test_other_kinds_of_weights_are_refused(official):
    official.write()
    torch.save({"model": {"unet.weight": torch.ones(1)}}, official.run / "model.pt")
    official.refused("no weights named diffusion_model")
    torch.save(
        {"model": {"diffusion_model.norm.weight": torch.ones(1), "epochs": 3}}, official.run / "model.pt"
    )
    official.refused("something else than tensors: epochs")
    torch.save([torch.ones(1)], official.run / "model.pt")
    official.refused("holds a list instead of named weights")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"objective": "pred_v_dual"}, "args.json: Unknown objective 'pred_v_dual'; choose one of"),
        ({"loss_type": "huber"}, "args.json: Unknown loss 'huber'"),
        ({"train_schedule": "zigzag"}, "zigzag"),
        ({"sampling_schedule": "zigzag"}, "zigzag"),
        ({"scale": -1.0}, "scale"),
        ({"scale": "large"}, "scale='large', where float is expected"),
        ({"self_condition": 1}, "self_condition=1, where bool is expected"),
        ({"tx_depth": 3}, "says tx_depth=3 but .*model.pt was made with 2"),
        ({"class_conditional": True}, "says class_conditional=True but"),
        ({"normalize_latent": True, "l2": True}, "latents are l2-normalised"),
        ({"beta_schedule": "linear", "train_schedule": None}, "official repository's first version"),
    ],
)
def test_settings_that_cannot_be_mapped_are_refused(official, args, message):
    args = dict(args)
    official.write(args, {"l2_normalize_latents": args.pop("l2", False)})
    if args.get("train_schedule", "") is None:
        settings = json.loads((official.run / "args.json").read_text())
        del settings["train_schedule"]
        (official.run / "args.json").write_text(json.dumps(settings))
    official.refused(message)


def test_a_missing_setting_is_named(official):
    official.write()
    for folder, unused in (
        (official.run, {"sampler", "sampling_timesteps", "enc_dec_model"}),
        (official.latent_model, {"num_decoder_latents", "enc_dec_model"}),
    ):
        path = folder / "args.json"
        settings = json.loads(path.read_text())
        for name in settings.keys() - unused:
            path.write_text(json.dumps({key: settings[key] for key in settings.keys() - {name}}))
            official.refused(f"args.json has no entry {name}")
        path.write_text(json.dumps(settings))


def test_files_that_are_missing_are_named(official):
    official.write()
    (official.latent_model / "args.json").unlink()
    official.refused(r"args\.json does not exist; a checkpoint can only be imported with the settings")
    (official.latent_model / "model.pt").unlink()
    said = re.escape(fake.OFFICIAL_ARGS["latent_model_path"])
    official.refused(f"autoencoder is in {said}, where no model.pt was found; .* --autoencoder")
    (official.run / "args.json").unlink()
    official.refused("has no args.json, the settings of an official checkpoint")
    (official.run / "model.pt").unlink()
    official.refused("is no checkpoint that can be imported")
    (official.run / "args.json").write_text("{")
    official.refused("has no model.pt, the weights of an official checkpoint")
    (official.run / "model.pt").write_bytes(b"")
    official.refused("args.json cannot be read as JSON")
    shutil.rmtree(official.run)
    official.refused("does not exist")


def test_the_autoencoder_may_lie_elsewhere(official):
    official.write()
    elsewhere = official.root / "ae"
    shutil.move(official.latent_model, elsewhere)
    official.do_import(autoencoder=elsewhere)
    official.run, official.out = elsewhere, official.root / "outputs/other"
    official.refused("holds an autoencoder alone; give the diffusion run's folder")


def test_parts_of_different_runs_are_refused(official):
    official.perceiver = fake.official_perceiver(64, dim_latent=16, num_latents=8)
    official.write().refused("the denoiser was trained on 8, 8 wide; they belong to different runs")
    official.perceiver = fake.official_perceiver(64, dim_latent=8, num_latents=9)
    official.write().refused("8 positions but the autoencoder gives 9 latents")
    official.perceiver = fake.official_perceiver(64, dim_latent=8, num_latents=8)
    official.write(latent_args={"num_layers": 3}).refused("says num_layers=3 but")


def test_the_source_encoder_must_be_the_autoencoders(official):
    official.denoiser = fake.official_denoiser(8, 8, dim_context=64)
    pipe = official.write({"dataset_name": "xsum"}).do_import()
    assert pipe.model.source_max_len == 32 and pipe.model.is_seq2seq
    assert len(pipe(1, source="A pub near the river.", num_inference_steps=2).texts) == 1
    shutil.rmtree(official.out)
    official.module = {"context_encoder.embed_tokens.weight": torch.zeros(2, 2)}
    official.write({"dataset_name": "qqp"}).refused(
        "another language model than the autoencoder's .*embed_tokens.weight"
    )


def test_a_language_model_out_of_reach_is_named(official, monkeypatch):
    monkeypatch.setattr("ld4lg_fast.autoencoder.pretrained.hub_answers", lambda name: False)
    official.write().refused(
        "builds on the language model 'nobody/bart', .* --language-model", language_model=None
    )


def test_nothing_is_overwritten(official):
    official.write()
    official.out.mkdir(parents=True)
    official.do_import()
    before = sorted(official.out.rglob("*"))
    with pytest.raises(ConfigError, match="is not empty, so nothing was imported"):
        official.do_import()
    assert sorted(official.out.rglob("*")) == before
    theirs = official.run
    official.run, official.out = official.out, official.root / "outputs/again"
    official.refused("is a run directory of ld4lg-fast already")
    (official.root / "file").write_text("")
    official.run, official.out = theirs, official.root / "file/run"
    official.refused("file/run cannot be written")


def test_an_unofficial_checkpoint_that_does_not_fit_is_refused(unofficial):
    transformer = unofficial.config["network"]["transformer"]
    unofficial.write(decoder=torch.ones(1)).refused("no place here: decoder")
    unofficial.write(**{"transformer.norm.extra": torch.ones(1)}).refused("no place here: norm.extra")
    unofficial.write(x_mean=torch.zeros(9)).refused(r"x_mean has the shape \(9,\)")
    unofficial.write(**fake.schedule_buffers("cosine", 1000)).refused(
        "not the config's linear schedule of 1000 steps"
    )
    transformer["head_dim"] = 32
    unofficial.write().refused("says network.transformer.head_dim=32 but")
    transformer["head_dim"] = 64
    unofficial.config["dataset"]["num_classes"] = 5
    unofficial.write().refused("says network.transformer.num_classes=5 but")
    unofficial.config["dataset"]["num_classes"] = 4
    unofficial.config["diffusion"]["objective"] = "pred_v2"
    unofficial.write().refused("config.yaml: Unknown objective 'pred_v2'")
    del unofficial.config["diffusion"]["objective"]
    unofficial.write().refused("config.yaml has no entry diffusion.objective")
    del unofficial.config["dataset"]["num_classes"]
    unofficial.config["diffusion"]["objective"] = "pred_x0"
    unofficial.write().refused("the entry network.transformer.num_classes cannot be read")


def test_unofficial_files_that_are_missing_are_named(unofficial):
    unofficial.write()
    state = torch.load(unofficial.run / "checkpoints/pytorch_model_1.bin", weights_only=True)
    del state["x_std"]
    torch.save(state, unofficial.run / "checkpoints/pytorch_model_1.bin")
    unofficial.refused("lacks these tensors: x_std")
    unofficial.refused("is no official run, so it has no autoencoder", autoencoder=unofficial.run)
    shutil.move(unofficial.run / ".hydra", unofficial.run / "elsewhere")
    unofficial.refused("There is no .hydra/config.yaml around")
    shutil.move(unofficial.run / "elsewhere", unofficial.run / ".hydra")
    (unofficial.run / "checkpoints/pytorch_model_1.bin").unlink()
    unofficial.refused("has a config.yaml but none of pytorch_model_1.bin")


def test_a_corpus_that_is_not_the_models_is_refused(unofficial, tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"src1_{split}.txt").write_text("name : Zizzi||Zizzi is a pub.\n" * 3)
    unofficial.config["dataset"]["name"] = "e2e"
    unofficial.write().refused(
        "model has 4 classes but the corpus .* none", ConfigError, dataset_root=tmp_path
    )
    unofficial.config["dataset"]["name"] = "poems"
    unofficial.write().refused("trained on 'poems', which is none of", ConfigError, dataset_root=tmp_path)
    unofficial.write().do_import()
