import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_outputs import BaseModelOutput

from ld4lg_fast.autoencoder.language_autoencoder import LanguageAutoencoder
from ld4lg_fast.autoencoder.latent_augmentation import Draws, LatentAugmentation
from ld4lg_fast.data import collate
from ld4lg_fast.decoding import DecodingConfig
from ld4lg_fast.errors import CheckpointError, ConfigError
from tests.conftest import PERCEIVER, randomize
from tests.language_models import tiny_t5

TEXTS = ["The Eagle is a pub near the river.", "Cheap food.", "A family friendly coffee shop called Zizzi."]
GREEDY = DecodingConfig("greedy", max_length=16, min_length=0, no_repeat_ngram_size=0, repetition_penalty=1.0)


def batch(autoencoder):
    ids = autoencoder.tokenizer(TEXTS, truncation=True, max_length=autoencoder.max_len)["input_ids"]
    return collate(ids, autoencoder.tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, tokenizer):
    """Folders with a tiny BART and a tiny T5, as a hub would hold them."""
    root = tmp_path_factory.mktemp("hub")
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1}
    bart = LanguageAutoencoder.from_scratch(tokenizer, lm, None, max_len=32).lm
    t5 = tiny_t5(len(tokenizer))
    for name, model in (("bart", bart), ("t5", t5)):
        randomize(model, std=0.3).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_pretrained_families_train_encode_and_decode(pretrained, family, tmp_path):
    model = LanguageAutoencoder.from_pretrained_lm(str(pretrained / family), PERCEIVER, max_len=32)
    ids, mask = batch(model)
    latents = model.eval().encode(ids, mask)
    assert latents.shape == (3, 6, 8) and model.decode_states(latents).shape == (3, 6, 64)
    model.train().loss(ids, mask).backward()
    assert all(p.grad is None for p in model.lm.parameters()), "a frozen language model must not train"
    assert all(p.grad is not None for p in model.perceiver.parameters())
    assert not model.lm.training

    model.eval().save(tmp_path / "saved")
    again = LanguageAutoencoder.load(tmp_path / "saved")
    torch.testing.assert_close(again.encode(ids, mask), latents, rtol=0, atol=0)
    assert again.generate(latents, GREEDY) == model.generate(latents, GREEDY)


@pytest.mark.parametrize(("family", "scaled"), [("bart", False), ("t5", False), ("t5", True)])
def test_the_loss_is_the_language_models_own(pretrained, family, scaled):
    model = LanguageAutoencoder.from_pretrained_lm(str(pretrained / family), PERCEIVER, max_len=32).eval()
    if family == "bart":
        model.lm.final_logits_bias.normal_()
    else:
        model.lm.config.scale_decoder_outputs = scaled
    ids, mask = batch(model)
    states = BaseModelOutput(last_hidden_state=model.decode_states(model.encode(ids, mask)))
    labels = ids.masked_fill(~mask.bool(), -100)
    want = model.lm(encoder_outputs=states, labels=labels, use_cache=False).loss
    torch.testing.assert_close(model.loss(ids, mask), want)


def test_a_perceiver_may_decode_to_another_number_of_states(tokenizer):
    perceiver = PERCEIVER | {"decoder": "perceiver", "num_decoder_latents": 10}
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    model = LanguageAutoencoder.from_scratch(tokenizer, lm, perceiver, max_len=32)
    ids, mask = batch(model)
    assert model.decode_states(model.encode(ids, mask)).shape == (3, 10, 64)


def test_a_fine_tuned_model_trains_everything(pretrained):
    model = LanguageAutoencoder.from_pretrained_lm(
        str(pretrained / "bart"), PERCEIVER, 32, freeze_lm=False
    ).train()
    model.loss(*batch(model)).backward()
    assert all(p.grad is not None for p in model.lm.get_encoder().layers.parameters())


def test_padding_changes_neither_latents_nor_loss(autoencoder):
    ids, mask = batch(autoencoder)
    wider = torch.nn.functional.pad(ids, (0, 5), value=autoencoder.tokenizer.pad_token_id)
    wider_mask = torch.nn.functional.pad(mask, (0, 5))
    torch.testing.assert_close(autoencoder.encode(wider, wider_mask), autoencoder.encode(ids, mask))
    torch.testing.assert_close(autoencoder.loss(wider, wider_mask), autoencoder.loss(ids, mask))


@pytest.mark.parametrize("name", ["decoder_noise", "position_dropout", "token_masking"])
def test_augmentation_is_drawn_from_the_generator(autoencoder, name):
    ids, mask = batch(autoencoder)
    losses = [
        autoencoder.loss(
            ids, mask, LatentAugmentation(**{name: 0.9}), torch.Generator().manual_seed(seed)
        ).item()
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != autoencoder.loss(ids, mask).item()


@pytest.mark.parametrize("name", ["decoder_noise", "position_dropout", "token_masking"])
def test_augmentation_does_not_depend_on_how_a_batch_is_dealt_out(autoencoder, name):
    ids, mask = batch(autoencoder)
    augmentation, tokenizer = LatentAugmentation(**{name: 0.9}), autoencoder.tokenizer
    latents = torch.randn(3, 6, 8, generator=torch.Generator().manual_seed(0))

    def seen(rank, world_size):
        rows = slice(rank, None, world_size)
        length = int(mask[rows].sum(dim=1).max())
        draws = [Draws(torch.Generator().manual_seed(4), rank, world_size) for _ in range(2)]
        read = augmentation.corrupt_tokens(ids[rows, :length], mask[rows, :length], tokenizer, 32, draws[0])
        return augmentation.augment_latents(latents[rows], draws[1]), read

    # Three texts as one batch, and dealt to three.
    whole = seen(0, 1)
    for rank in range(3):
        blurred, read = seen(rank, 3)
        torch.testing.assert_close(blurred, whole[0][rank : rank + 1])
        assert torch.equal(read, whole[1][rank : rank + 1, : read.shape[1]])


def test_shares_of_the_augmentation(autoencoder):
    draws = Draws(torch.Generator().manual_seed(0))
    ones = torch.ones(4000, 16, 8)
    dropped = (LatentAugmentation(position_dropout=0.6).augment_latents(ones, draws) == 0).float()
    assert torch.equal(dropped.amin(-1), dropped.amax(-1)), "a latent is dropped as a whole"
    assert abs(dropped.mean().item() - 0.3) < 0.02
    latents = torch.randn(2000, 32, 64, generator=draws.generator) * 3
    noised = LatentAugmentation(decoder_noise=0.4).augment_latents(latents, draws)
    assert abs(noised.std().item() - 3) < 0.05, "the scale stays"
    kept = (noised * latents).mean(dim=(1, 2)) / latents.square().mean(dim=(1, 2))
    share = 1 - kept.square()
    assert abs(share.mean().item() - 0.2) < 0.02 and share.max() < 0.5

    ids, mask = batch(autoencoder)
    ids, mask = ids.repeat(2000, 1), mask.repeat(2000, 1)
    read = LatentAugmentation(token_masking=0.5).corrupt_tokens(ids, mask, autoencoder.tokenizer, 32, draws)
    special = torch.isin(ids, torch.tensor(autoencoder.tokenizer.all_special_ids))
    assert torch.equal(read[special], ids[special]) and read.max() < len(autoencoder.tokenizer)
    assert abs((read != ids)[~special].float().mean().item() - 0.25) < 0.02


def test_a_share_of_augmentation_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="autoencoder.token_masking=1.5; it must lie between 0 and 1"):
        LatentAugmentation(token_masking=1.5)


def test_gradients_flow_through_the_augmentation(autoencoder):
    augmentation = LatentAugmentation(decoder_noise=0.3, position_dropout=0.3, token_masking=0.3)
    autoencoder.train().loss(*batch(autoencoder), augmentation).backward()
    assert all(
        p.grad.isfinite().all() and p.grad.any() for p in autoencoder.perceiver.encoder.attn.parameters()
    )


def test_overfitting_a_few_sentences_reconstructs_them(tokenizer):
    torch.manual_seed(0)
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    model = LanguageAutoencoder.from_scratch(
        tokenizer, lm, PERCEIVER | {"l2_normalize": True}, max_len=32
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(*batch(model)).backward()
        optimizer.step()
    latents = model.eval().encode(*batch(model))
    torch.testing.assert_close(latents.norm(dim=-1), torch.full((3, 6), 8**0.5))
    for strategy in ("greedy", "beam", "nucleus"):
        decoding = DecodingConfig(
            strategy, max_length=32, min_length=0, no_repeat_ngram_size=0, repetition_penalty=1.0
        )
        assert model.decode_text(model.generate(latents, decoding)) == TEXTS


def test_nucleus_draws_belong_to_the_sample(autoencoder):
    decoding = DecodingConfig("nucleus", max_length=16, temperature=3.0, top_p=1.0)
    latents = torch.randn(6, 6, 8, generator=torch.Generator().manual_seed(0))
    together = autoencoder.generate(latents, decoding, seed=5)
    alone = [
        autoencoder.generate(latents[i : i + 1], decoding, seed=5, sample_ids=torch.tensor([i]))[0]
        for i in range(6)
    ]
    assert together == alone
    assert together != autoencoder.generate(latents, decoding, seed=6)


def test_nucleus_frequencies_follow_the_probabilities(autoencoder):
    """First drawn token of many samples against the model's own distribution."""
    latents = torch.randn(1, 6, 8).expand(4000, 6, 8)
    decoding = DecodingConfig("nucleus", 2, 0, no_repeat_ngram_size=0, repetition_penalty=1.0, top_p=1.0)
    from ld4lg_fast.decoding import generate_ids

    lm = autoencoder.lm
    lm.generation_config.forced_eos_token_id = None
    ids = generate_ids(lm, autoencoder.decode_states(latents), decoding, 32)[:, 1]
    start = torch.tensor([[lm.config.decoder_start_token_id]])
    states = (autoencoder.decode_states(latents[:1]),)
    expected = lm(encoder_outputs=states, decoder_input_ids=start).logits[0, -1].softmax(-1)
    observed = torch.bincount(ids, minlength=expected.shape[0]) / len(ids)
    assert (observed - expected).abs().max() < 4 * (0.25 / len(ids)) ** 0.5


def test_v1_latents_are_the_hidden_states(tokenizer):
    lm = {"dim": 64, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.0}
    model = LanguageAutoencoder.from_scratch(tokenizer, lm, None, max_len=32).eval()
    ids, mask = batch(model)
    latents = model.encode(ids, mask)
    assert latents.shape == (*ids.shape, 64) == (3, ids.shape[1], model.dim_latent)
    poisoned = latents.masked_fill(~mask[..., None], 1e3)
    assert model.generate(latents, GREEDY, mask=mask) == model.generate(poisoned, GREEDY, mask=mask)


def test_damaged_and_foreign_folders_are_refused(autoencoder, tmp_path):
    with pytest.raises(CheckpointError, match="not a saved autoencoder"):
        LanguageAutoencoder.load(tmp_path)
    autoencoder.save(tmp_path)
    path = tmp_path / "perceiver.safetensors"
    state = load_file(path)
    save_file(state | {"encoder.queries": torch.zeros(7, 8)}, path)
    with pytest.raises(
        CheckpointError, match=r"encoder.queries has the shape \(7, 8\) but the model needs \(6, 8\)"
    ):
        LanguageAutoencoder.load(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        LanguageAutoencoder.load(tmp_path)
    (tmp_path / "language_model" / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"language_model/model.safetensors is damaged"):
        LanguageAutoencoder.load(tmp_path)


def test_missing_hub_says_how_to_go_on(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="autoencoder=scratch, which needs no download"):
        LanguageAutoencoder.from_pretrained_lm("no-such-place/no-such-model", PERCEIVER)


def test_limits_are_enforced(autoencoder, pretrained):
    with pytest.raises(ConfigError, match="33 tokens exceeds max_len 32"):
        autoencoder.encode(torch.zeros(1, 33, dtype=torch.long), torch.ones(1, 33, dtype=torch.bool))
    with pytest.raises(ConfigError, match="at most 32 tokens, but max_len is 64"):
        LanguageAutoencoder.from_pretrained_lm(str(pretrained / "bart"), PERCEIVER, max_len=64)
    with pytest.raises(ConfigError, match="max_length 40 exceeds the 32 tokens"):
        autoencoder.generate(torch.zeros(1, 6, 8), DecodingConfig(max_length=40))
    for bad in (
        {"strategy": "beams"},
        {"min_length": 70, "max_length": 64},
        {"num_beams": 0},
        {"top_p": 0.0},
        {"repetition_penalty": 0},
    ):
        with pytest.raises(ConfigError):
            DecodingConfig(**bad)
