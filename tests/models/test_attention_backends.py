"""Attention backends: what runs, what is refused and why, and packed batches against padded ones."""

import sys

import pytest
import torch

from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels.short_attention import op
from ld4lg_fast.models import attention_backends
from ld4lg_fast.models.attention_backends import (
    BACKENDS,
    attention,
    check_attn_implementation,
    choose,
    flash_attention,
    set_attn_implementation,
)
from ld4lg_fast.models.denoiser import DenoiserConfig, DiffusionTransformer
from ld4lg_fast.models.denoiser_v1 import DenoiserConfigV1, DiffusionTransformerV1
from ld4lg_fast.models.layers import HeadRMSNorm
from ld4lg_fast.models.packed_sequences import Lengths, PackedSequences, Varlen
from ld4lg_fast.models.perceiver import Perceiver, PerceiverConfig
from ld4lg_fast.pipeline.pipeline import TextDiffusionPipeline
from tests.models import flash_attn_stand_in as stand_in

GPU = torch.device("cuda", 0)


def some(*shape, dtype=torch.bfloat16, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def mask_of(lengths, longest):
    return torch.arange(longest) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("version", [2, 3, 4])
@pytest.mark.parametrize("causal", [False, True])
def test_each_package_is_called_as_its_functions_are_declared(install, version, causal):
    install(version)
    q, k, v = (some(2, n, 3, 32, seed=n) for n in (5, 7, 7))
    q, k, v = q, k, some(2, 7, 3, 32, seed=9)
    out = flash_attention(q, k, v, scale=0.3, causal=causal)
    mask = torch.ones(5, 7, dtype=torch.bool).tril(2) if causal else None
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), attn_mask=mask, scale=0.3
    ).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=2e-2, atol=1e-2)
    lengths = Lengths.equal(2, 5, q.device), Lengths.equal(2, 7, q.device)
    packed = flash_attention(
        *(x.flatten(0, 1) for x in (q, k, v)), Varlen(*lengths), scale=0.3, causal=causal
    )
    torch.testing.assert_close(packed, out.flatten(0, 1))
    assert stand_in.tokens == [(10, 14)] * 2 and stand_in.options == [(0.3, 0.0, causal)] * 2


def test_the_scale_is_that_of_the_heads_by_default(install):
    install(2)
    flash_attention(*(some(1, 4, 2, 64) for _ in range(3)))
    assert stand_in.options == [(0.125, 0.0, False)]


def test_the_newest_package_that_can_run_does(install):
    calls = {}
    for versions, major in (((2, 3, 4), 10), ((2, 3, 4), 9), ((2, 3), 9), ((2, 3), 10), ((2, 3, 4), 8)):
        install(*versions, capability=(major, 0))
        calls[versions, major] = attention_backends.usable_package(GPU, 64, False).version
    assert list(calls.values()) == [4, 4, 3, 2, 2]
    assert attention_backends.usable_package(GPU, 320, False) is None


def test_dropout_needs_version_2(install):
    install(2, 3)
    flash_attention(*(some(1, 4, 2, 64) for _ in range(3)), dropout=0.1)
    assert stand_in.options == [(0.125, 0.1, False)]
    install(3)
    with pytest.raises(ConfigError, match="flash-attn-3 has no dropout"):
        flash_attention(*(some(1, 4, 2, 64) for _ in range(3)), dropout=0.1)


@pytest.mark.parametrize(
    "versions, capability, sentence",
    [
        ((2,), None, "flash_attn cannot run here: it needs an NVIDIA GPU"),
        ((), (9, 0), r"flash-attn is not installed \(pip install 'ld4lg-fast\[flash-attn\]'\)"),
        ((2,), (7, 5), r"flash-attn is for compute capability 8.x to 12.x, and the GPU has 7.5"),
        ((3,), (10, 0), "flash-attn-3 is for compute capability 9.x to 9.x, and the GPU has 10.0"),
    ],
    ids=["no GPU", "no package", "GPU too old", "GPU too new"],
)
def test_asked_for_by_name_it_says_why_not(install, versions, capability, sentence):
    install(*versions, capability=capability)
    with pytest.raises(ConfigError, match=sentence):
        check_attn_implementation("flash_attn")
    with pytest.raises(ConfigError, match=sentence):
        flash_attention(*(some(1, 4, 2, 64) for _ in range(3)))


def test_a_package_that_does_not_import_says_so(install, monkeypatch):
    install(2)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    with pytest.raises(ConfigError, match="flash-attn cannot be imported: "):
        check_attn_implementation("flash_attn")


def test_unknown_names_are_refused():
    with pytest.raises(ConfigError, match="attn_implementation.*flash2"):
        check_attn_implementation("flash2")


def test_float32_wide_heads_and_biases_are_refused(install):
    install(2)
    x = some(1, 4, 128, dtype=torch.float32)
    with pytest.raises(ConfigError, match="bfloat16 or float16, not torch.float32"):
        attention(x, x, x, backend="flash_attn")
    with pytest.raises(ConfigError, match="adds no bias"):
        attention(x.half(), x.half(), x.half(), x.new_zeros(1, 1, 4, 4).half(), backend="flash_attn")
    with pytest.raises(ConfigError, match="up to 256 wide, not 320"):
        flash_attention(*(some(1, 4, 2, 320) for _ in range(3)))
    assert not stand_in.tokens


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("with_norms", [False, True])
def test_all_backends_compute_the_same(install, backend, with_norms):
    install(2)
    q, k, v = (some(2, 9, 128, seed=seed) for seed in range(3))
    norms = [HeadRMSNorm(), HeadRMSNorm()] if with_norms else []
    expected = attention(q.float(), k.float(), v.float(), norms=norms, backend="sdpa")
    out = attention(q, k, v, norms=norms, backend=backend)
    torch.testing.assert_close(out.float(), expected, rtol=3e-2, atol=2e-2)
    assert len(stand_in.tokens) == (backend == "flash_attn")


@pytest.mark.parametrize("dropout, length, sentence", [(0.1, 4, "no dropout"), (0, 200, "at most 128")])
def test_short_attention_by_name_says_why_not(dropout, length, sentence):
    x = some(1, length, 64)
    with pytest.raises(ConfigError, match=f"short_attention cannot run here: .*{sentence}"):
        attention(x, x, x, dropout=dropout, backend="short_attention")


def test_short_attention_has_one_limit():
    assert op.MAX_LENGTH == attention_backends.SHORT


def test_auto_follows_its_table(install):
    def chosen(longest, device=GPU, dtype=torch.bfloat16, **options):
        return choose("auto", device, dtype, longest, **options)

    install(2)
    assert [chosen(n) for n in (64, 199, 200)] == ["short_attention", "short_attention", "flash_attn"]
    assert chosen(1000, device=torch.device("cpu")) == "short_attention"
    assert chosen(1000, dtype=torch.float32) == chosen(1000, has_bias=True) == "short_attention"
    assert chosen(100, dropout=0.1) == "sdpa" and chosen(1000, dropout=0.1) == "flash_attn"
    install(3)
    assert [chosen(n) for n in (200, 511, 512)] == ["short_attention", "short_attention", "flash_attn"]
    install()
    assert chosen(1000) == "short_attention" and chosen(1000, dropout=0.1) == "sdpa"


def test_packing_and_back():
    mask = torch.tensor([[True, True, False], [False, True, False], [True, True, True]])
    packed, x = PackedSequences.of(mask), some(3, 3, 4, dtype=torch.float32)
    assert packed.lengths.cu_seqlens.tolist() == [0, 2, 3, 6] and packed.lengths.longest == 3
    assert packed.sample.tolist() == [0, 0, 1, 2, 2, 2] and packed.position.tolist() == [0, 1, 1, 0, 1, 2]
    torch.testing.assert_close(packed.unpack(packed.pack(x)), x * mask[..., None], rtol=0, atol=0)
    assert packed.lengths.twice().cu_seqlens.tolist() == [0, 2, 3, 6, 8, 9, 12]


def denoiser_v1(**options):
    torch.manual_seed(3)
    sizes = {"dim": 128, "depth": 2, "dim_latent": 32, "max_len": 16, "dropout": 0.0}
    model = DiffusionTransformerV1(DenoiserConfigV1(**sizes, **options))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


LENGTHS = [5, 11, 1, 8]


def outputs_v1(model, guided, x_self_cond):
    classes = model.config.num_classes
    batch, length = len(LENGTHS), max(LENGTHS)
    ids = torch.tensor([0, 2, 1, 2]) if classes else None
    if guided and classes:
        ids = torch.cat([ids, torch.full_like(ids, classes)])
    z = some(batch, length, 32, dtype=torch.float32)
    given = some(batch, length, 32, dtype=torch.float32, seed=1) if x_self_cond else None
    mask = mask_of(LENGTHS, length)
    conditions = model.conditions((batch, length), mask=mask, class_id=ids, guided=guided)
    times = torch.tensor([7]) if guided else torch.tensor([7, 400, 31, 999])
    out = model.run_blocks(model.network_input(z, given), model.modulate(times), conditions)
    return out, torch.cat([mask] * 2) if guided else mask


@pytest.mark.parametrize("x_self_cond", [False, True])
@pytest.mark.parametrize("self_condition", [False, True])
@pytest.mark.parametrize("num_classes, guided", [(0, False), (3, False), (3, True)])
def test_a_packed_batch_of_v1_is_the_padded_one(install, guided, self_condition, num_classes, x_self_cond):
    install(2, dtypes=(torch.float32,))
    model = denoiser_v1(self_condition=self_condition, num_classes=num_classes)
    padded, mask = outputs_v1(model, guided, x_self_cond)
    padded[mask].square().sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    set_attn_implementation(model, "flash_attn")
    packed, _ = outputs_v1(model, guided, x_self_cond)
    torch.testing.assert_close(packed[mask], padded[mask], rtol=1e-4, atol=1e-4)
    assert not packed[~mask].any()
    packed[mask].square().sum().backward()
    for name, parameter in model.named_parameters():
        if expected[name] is None:
            assert parameter.grad is None, name
        else:
            scale = expected[name].abs().max().item()
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-4 * scale + 1e-7)


def test_nothing_is_computed_for_padding(install):
    install(2, dtypes=(torch.float32,))
    model, rows = denoiser_v1(num_classes=3), []
    for block in model.blocks:
        block.ff.register_forward_hook(
            lambda module, inputs, output: rows.append(inputs[0].shape[:-1].numel())
        )
    set_attn_implementation(model, "flash_attn")
    outputs_v1(model, guided=False, x_self_cond=True)
    real, batch = sum(LENGTHS), len(LENGTHS)
    assert rows == [real] * 2
    assert stand_in.tokens == [(real, real), (real, real + batch)] * 2  # a class token for each sample


def test_positions_beyond_what_packages_have_heads_for(install):
    install(2)
    model = DiffusionTransformerV1(DenoiserConfigV1(dim=64, depth=1, dim_latent=8, max_len=200)).bfloat16()
    set_attn_implementation(model, "flash_attn")
    with pytest.raises(ConfigError, match="up to 256 wide, not 264"):
        model(some(1, 200, 8), torch.tensor([3]))


@pytest.mark.parametrize("guided", [False, True])
def test_packed_sources_are_the_padded_ones(install, guided):
    install(2, dtypes=(torch.float32,))
    sizes = {
        "dim": 128,
        "depth": 3,
        "dim_latent": 16,
        "max_len": 8,
        "dropout": 0.0,
        "num_dense_connections": 1,
    }
    model = DiffusionTransformer(DenoiserConfig(**sizes, dim_context=24))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    z, context = some(4, 8, 16, dtype=torch.float32), some(4, 11, 24, dtype=torch.float32)
    mask = mask_of(LENGTHS, 11)

    def run():
        conditions = model.conditions((4, 8), context=context, context_mask=mask, guided=guided)
        return model.run_blocks(model.network_input(z, None), model.modulate(torch.tensor([0.3])), conditions)

    padded = run()
    set_attn_implementation(model, "flash_attn")
    torch.testing.assert_close(run(), padded, rtol=1e-4, atol=1e-4)
    assert (32, sum(LENGTHS)) in stand_in.tokens
    with pytest.raises(ConfigError, match="adds no bias"):
        model(z, torch.full((4,), 0.3), mask=mask_of([8, 3, 2, 1], 8), context=context)


@pytest.mark.parametrize("decoder", ["transformer", "perceiver"])
def test_the_perceiver_packed(install, decoder):
    install(2, dtypes=(torch.float32,))
    torch.manual_seed(0)
    perceiver = Perceiver(
        PerceiverConfig(dim_lm=128, dim_latent=64, num_latents=4, depth=2, max_len=12, decoder=decoder)
    )
    states, mask = some(4, 11, 128, dtype=torch.float32), mask_of(LENGTHS, 11)
    padded = perceiver.encode(states, mask)
    decoded = perceiver.decode(padded)
    assert not stand_in.tokens
    set_attn_implementation(perceiver, "flash_attn")
    torch.testing.assert_close(perceiver.encode(states, mask), padded, rtol=1e-4, atol=1e-5)
    assert stand_in.tokens == [(16, sum(LENGTHS) + 16)] * 2
    torch.testing.assert_close(perceiver.decode(padded), decoded, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        perceiver.encode(states), _with(perceiver, "sdpa").encode(states), rtol=1e-4, atol=1e-5
    )


def _with(model, backend):
    set_attn_implementation(model, backend)
    return model


def test_a_pipeline_is_told_and_samples_the_same(install):
    pipe = TextDiffusionPipeline.from_pretrained(attn_implementation="sdpa")
    options = {"num_inference_steps": 3, "seed": 2}
    expected = pipe.sample(2, **options).latents
    install(2, dtypes=(torch.float32,))
    assert pipe.set_attention("flash_attn") is pipe
    torch.testing.assert_close(pipe.sample(2, **options).latents, expected, rtol=1e-3, atol=1e-3)
    assert stand_in.tokens
    latents, _ = pipe.encode(["a cat", "the longer text of both"])
    assert {causal for _, _, causal in stand_in.options} == {False}
    stand_in.tokens.clear()
    pipe.set_attention("auto")
    torch.testing.assert_close(
        pipe.encode(["a cat", "the longer text of both"])[0], latents, rtol=1e-3, atol=1e-3
    )
    pipe.sample(2, **options)
    assert not stand_in.tokens


def test_without_a_gpu_a_pipeline_says_so_before_it_loads_anything():
    with pytest.raises(
        ConfigError, match="attn_implementation=flash_attn cannot run here: it needs an NVIDIA GPU"
    ):
        TextDiffusionPipeline.from_pretrained("no/such/folder", attn_implementation="flash_attn")
