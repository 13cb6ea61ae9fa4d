"""The parts of the published pipeline that golden cases do not reach: real random numbers, text decoding."""

import ast
import random
from pathlib import Path

import pytest
import torch

from benchmarks.reference import v1_denoiser, v1_diffusion, v2_autoencoder, v2_denoiser, v2_diffusion
from benchmarks.reference.pipeline import TextPipeline
from tests.language_models import tiny_bart

ROOT = Path(__file__).resolve().parents[2]
DENOISER = {"tx_dim": 64, "tx_depth": 2, "heads": 1, "latent_dim": 8, "max_seq_len": 6, "dropout": 0.0}


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval()


def process(sampler: str = "ddpm", steps: int = 3, **denoiser) -> v2_diffusion.GaussianDiffusion:
    network = randomized(v2_denoiser.DiffusionTransformer(**DENOISER, **denoiser))
    return v2_diffusion.GaussianDiffusion(network, max_seq_len=6, sampler=sampler, sampling_timesteps=steps)


@pytest.fixture
def pipeline(tokenizer):
    lm = tiny_bart(len(tokenizer), tie_word_embeddings=False)
    autoencoder = v2_autoencoder.PerceiverAutoencoder(
        dim_lm=64, dim_ae=8, depth=1, num_encoder_latents=6, num_decoder_latents=6, max_seq_len=64
    )
    diffusion = process(seq2seq=True, seq2seq_context_dim=64)
    return TextPipeline(randomized(lm), tokenizer, randomized(autoencoder), diffusion)


def test_the_reference_imports_nothing_of_ours():
    for path in (ROOT / "benchmarks" / "reference").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("ld4lg_fast")], path.name


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp"])
def test_v2_samples_with_torchs_generator(sampler):
    diffusion, runs = process(sampler), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        runs.append(diffusion.sample(2))
    assert runs[0].shape == (2, 6, 8) and runs[0].isfinite().all()
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_one_step_of_the_published_dpmpp_gives_nothing():
    assert process("dpmpp", steps=1).sample(2) is None


def test_v2_guidance_costs_a_second_pass():
    diffusion, calls = process("ddim", class_conditional=True, num_classes=3), []
    diffusion.diffusion_model.register_forward_pre_hook(lambda module, args: calls.append(args[4].tolist()))
    diffusion.sample(2, class_id=torch.tensor([0, 2]), cls_free_guidance=2.0)
    assert calls == 3 * [[0, 2], [3, 3]]


def test_v2_training_draws_what_it_is_not_given():
    diffusion = process(class_conditional=True, num_classes=3, class_unconditional_prob=1.0)
    latents, mask, class_id = torch.ones(2, 6, 8), torch.ones(2, 6, dtype=torch.bool), torch.tensor([0, 1])
    torch.manual_seed(0)
    random.seed(0)
    losses = [diffusion(latents, mask, class_id) for _ in range(20)]
    assert len({result.loss.item() for result in losses}) == 20
    assert class_id.tolist() == [3, 3]
    assert {result.x_self_cond is None for result in losses} == {True, False}


def test_v1_moves_the_generator_on_even_at_eta_0():
    network = v1_denoiser.DiffusionTransformer(x_dim=8, seq_len=6, hidden_dim=64, heads=1, depth=1)
    diffusion = v1_diffusion.GaussianDiffusion(randomized(network))
    torch.manual_seed(0)
    latents, mask = diffusion.sample([6, 2], sampling_steps=3)
    after = torch.get_rng_state()
    torch.manual_seed(0)
    torch.randn(3, 2, 6, 8)
    assert torch.equal(after, torch.get_rng_state())
    assert latents.shape == (2, 6, 8) and mask.sum(dim=1).tolist() == [6, 2]


@pytest.mark.parametrize("strategy", ["beam", "nucleus"])
def test_texts_come_in_batches(pipeline, strategy):
    batches, network = [], pipeline.diffusion.diffusion_model
    network.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    torch.manual_seed(0)
    texts = pipeline(3, batch_size=2, strategy=strategy)
    assert len(texts) == 3 and all(texts)
    assert set(batches) == {2} and len(batches) % 3 == 0 and len(batches) >= 6
    torch.manual_seed(0)
    assert pipeline(3, batch_size=2, strategy=strategy) == texts


def test_decoding_keeps_the_published_rules(pipeline):
    ids = []
    generate = pipeline.lm.generate
    pipeline.lm.generate = lambda **options: ids.append(generate(**options)) or ids[-1]
    pipeline.decode(torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0)))
    assert 5 <= ids[0].shape[1] <= 64
    for row in ids[0].tolist():
        trigrams = list(zip(row, row[1:], row[2:], strict=False))
        real = [trigram for trigram in trigrams if pipeline.tokenizer.pad_token_id not in trigram]
        assert len(real) == len(set(real))


def test_sources_condition_the_texts(pipeline):
    sources = ["The Eagle is a pub .", "The Mill is a restaurant .", "Green Man"]
    torch.manual_seed(0)
    conditions = pipeline.encode_sources(sources)
    assert conditions["seq2seq_cond"].shape == (3, 64, 64) and conditions["seq2seq_mask"].any(dim=1).all()
    torch.manual_seed(0)
    with_source = pipeline.sample_latents(3, cls_free_guidance=2.0, **conditions)
    torch.manual_seed(0)
    assert not torch.equal(with_source, pipeline.sample_latents(3))
    assert len(pipeline.from_sources(sources, batch_size=2)) == 3


def test_a_model_that_says_nothing_is_an_error(pipeline):
    pipeline.decode = lambda latents, strategy: ["", ""]
    with pytest.raises(RuntimeError, match="all 2 texts of a batch are empty"):
        pipeline(1, batch_size=2)
