import pytest
import torch

from ld4lg_fast.errors import CheckpointError, ConfigError
from ld4lg_fast.models import parameter_names
from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
from ld4lg_fast.models.denoiser_v1 import DenoiserConfigV1, DiffusionTransformerV1
from tests.conftest import randomize

SMALL = {"dim": 64, "depth": 4, "dim_latent": 8, "max_len": 6, "num_dense_connections": 2, "dropout": 0.0}


def build(**changes):
    return randomize(DiffusionTransformer(DenoiserConfig(**SMALL | changes))).eval()


def inputs(batch=3, length=6):
    generator = torch.Generator().manual_seed(1)
    z_t = torch.randn(batch, length, 8, generator=generator)
    return z_t, torch.rand(batch, generator=generator)


def test_state_dict_holds_plain_parts_and_loads_both_ways():
    model = build()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert "blocks.0.attn.to_q.weight" in state and "blocks.3.modulation.bias" in state
    assert not any("qkv" in name or name.startswith("modulation") for name in state)
    other = DiffusionTransformer(model.config).eval()
    other.load_state_dict(state)
    z_t, time = inputs()
    torch.testing.assert_close(other(z_t, time), model(z_t, time), rtol=0, atol=0)
    assert torch.equal(model.blocks[1].attn.qkv.weight[:64], state["blocks.1.attn.to_q.weight"])
    published = parameter_names.to_published(state, parameter_names.denoiser_names(model.config))
    again = parameter_names.load_denoiser(published)
    torch.testing.assert_close(again(z_t, time), model(z_t, time), rtol=0, atol=0)


def test_missing_and_superfluous_tensors_are_named():
    state = parameter_names.to_published(build().state_dict(), parameter_names.denoiser_names(build().config))
    short = {name: tensor for name, tensor in state.items() if name != "encoder.layers.0.1.to_q.weight"}
    with pytest.raises(CheckpointError, match="lacks these tensors: encoder.layers.0.1.to_q.weight"):
        parameter_names.load_denoiser(short)
    with pytest.raises(CheckpointError, match="no place here: stray"):
        parameter_names.load_denoiser(state | {"stray": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="no tensor 'pos_emb.emb.weight'"):
        parameter_names.load_denoiser({"stray": torch.zeros(1)})


def test_real_positions_do_not_see_padding():
    model = build()
    z_t, time = inputs()
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    changed = torch.where(mask[..., None], z_t, torch.full_like(z_t, 50.0))
    out, out_changed = model(z_t, time, mask=mask), model(changed, time, mask=mask)
    torch.testing.assert_close(out[mask], out_changed[mask])
    assert out.isfinite().all()
    torch.testing.assert_close(out[2:, :2], model(z_t[2:, :2], time[2:]), rtol=1e-4, atol=1e-5)


def test_full_mask_equals_no_mask():
    model = build(dim_context=16)
    z_t, time = inputs()
    context = torch.randn(3, 5, 16)
    ones = torch.ones(3, 6, dtype=torch.bool)
    with_masks = model(z_t, time, mask=ones, context=context, context_mask=torch.ones(3, 5, dtype=torch.bool))
    torch.testing.assert_close(with_masks, model(z_t, time, context=context))


def test_unet_skips_use_the_early_blocks():
    """Published dense connections ignore block 0's output; real U-ViT skips feed it to the last block."""
    z_t, time = inputs()
    for unet_skips in (False, True):
        model = build(unet_skips=unet_skips)
        model.dense_projections[1].weight.data[:, :64] = 0  # the last block sees the popped state alone
        with torch.no_grad():
            before = model(z_t, time)
            model.blocks[2].ff.proj_out.bias.normal_()  # changes x between the two skips only
            changed = not torch.allclose(before, model(z_t, time), atol=1e-4)
        assert changed is not unet_skips


@pytest.mark.parametrize("dropout", [0.0, 1e-9])
def test_qk_norm_makes_the_scale_of_queries_and_keys_irrelevant(dropout):
    """With and without attention dropout, which uses another implementation."""
    z_t, time = inputs()
    model = build(qk_norm=True, dropout=dropout)
    with torch.no_grad():
        want = build(qk_norm=True)(z_t, time)
        model.train(dropout > 0)
        for block in model.blocks:
            block.attn.qkv.weight[:128] *= 7
        torch.testing.assert_close(model(z_t, time), want, rtol=1e-3, atol=1e-4)
        model.blocks[0].attn.norms[0].gamma *= 3
        assert not torch.allclose(model(z_t, time), want, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_stay_near_float32(dtype):
    z_t, time = inputs()
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    want = build(num_classes=3)(z_t, time, mask=mask, class_id=torch.tensor([0, 1, 3]))
    got = build(num_classes=3).to(dtype)(z_t, time, mask=mask, class_id=torch.tensor([0, 1, 3]))
    assert got.dtype == dtype
    assert (got.float() - want).norm() / want.norm() < (3e-2 if dtype == torch.bfloat16 else 1e-5)


def test_autocast_runs_and_gives_gradients():
    model = build(num_classes=3, dim_context=16).train()
    z_t, time = inputs()
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        out = model(z_t, time, mask=mask, class_id=torch.tensor([0, 1, 3]), context=torch.randn(3, 5, 16))
    out.float().square().sum().backward()
    unused = {"init_self_cond"} if model.config.self_condition else set()
    for name, parameter in model.named_parameters():
        if name not in {"null_context"} | unused:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 100}, "multiple of 64"),
        ({"depth": 2, "num_dense_connections": 2}, "fewer than the blocks"),
        ({"depth": 3, "num_dense_connections": 2, "unet_skips": True}, "depth of at least 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        DenoiserConfig(**SMALL | changes)


def test_wrong_inputs_are_refused_with_their_values():
    z_t, time = inputs()
    with pytest.raises(ConfigError, match=r"mask has the shape \(3, 5\); it must be \(3, 6\)"):
        build()(z_t, time, mask=torch.ones(3, 5))
    with pytest.raises(ConfigError, match="7 positions, but this model was built for at most 6"):
        build()(torch.randn(3, 7, 8), time)
    with pytest.raises(ConfigError, match="takes no class_id"):
        build()(z_t, time, class_id=torch.zeros(3, dtype=torch.long))
    with pytest.raises(ConfigError, match="3 classes; give class_id"):
        build(num_classes=3)(z_t, time)
    with pytest.raises(ConfigError, match="takes no context"):
        build()(z_t, time, context=torch.randn(3, 5, 16))


def test_v1_padding_and_wrong_inputs():
    config = DenoiserConfigV1(dim=64, depth=2, dim_latent=8, max_len=6, num_classes=3, dropout=0.0)
    model = randomize(DiffusionTransformerV1(config)).eval()
    z_t, time = inputs()[0], torch.tensor([0, 500, 999])
    mask = torch.arange(6) < torch.tensor([6, 4, 2])[:, None]
    ids = torch.tensor([0, 1, 3])
    changed = torch.where(mask[..., None], z_t, torch.full_like(z_t, 50.0))
    out = model(z_t, time, mask=mask, x_self_cond=z_t, class_id=ids)
    torch.testing.assert_close(
        out[mask], model(changed, time, mask=mask, x_self_cond=changed, class_id=ids)[mask]
    )
    with pytest.raises(ConfigError, match="no sequence-to-sequence"):
        model(z_t, time, class_id=ids, context=torch.randn(3, 5, 8))
    with pytest.raises(ConfigError, match="give class_id"):
        model(z_t, time)
