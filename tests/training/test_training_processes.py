"""Two processes that talk by gloo compute what one does, whatever conditions a step leaves out."""

import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.models.context_encoder import BlockContext
from ld4lg_fast.training.block_latents import BlockLatents, CutBlocks
from ld4lg_fast.training.block_stages import BlockDiffusionStage
from ld4lg_fast.training.conditioned_latents import ConditionedLatents, SourceStates
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_section import StageOptions
from ld4lg_fast.training.train_step import Part, TrainStep
from tests.conftest import RECIPE, randomize

TEXTS, STEPS, RATE = 32, 6, 1e-2
V1 = RECIPE | {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": 50, "class_drop_prob": 0.5}
SIZES = {"dim": 64, "depth": 2, "dim_latent": 8, "max_len": 6, "dropout": 0.0, "num_classes": 3}
CONTEXT = {
    "context_blocks": 2,
    "context_layers": 1,
    "context_noise": 0.1,
    "cut_share": 0.5,
    "prefix_tokens": 0,
}
KINDS = {
    "v2": (
        RECIPE | {"context_drop_prob": 0.5, "class_drop_prob": 0.5},
        SIZES | {"dim_context": 16, "num_dense_connections": 1},
    ),
    "v1": (V1, SIZES),
    "blocks": (
        RECIPE | {"context_drop_prob": 0.5, "class_drop_prob": 0.5, **CONTEXT},
        SIZES | {"dim_context": 64, "num_dense_connections": 1},
    ),
}


def make_stage(kind: str, micro_batches: int = 1) -> DiffusionStage:
    """On random latents with classes, and sources (v2) or lengths (v1)."""
    options = SimpleNamespace(
        diffusion=StageOptions(100, 8, RATE, 10, 0.1, 1.0, 0.9, micro_batches),
        activation_checkpointing=False,
        cuda_graph=False,
        compiles=lambda device: False,
    )
    session = Session(Accelerator(cpu=True), None, options, 3, None, None, None)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, 7, (TEXTS,), generator=generator).numpy()
    latents = torch.randn(TEXTS, 6, 8, generator=generator)
    conditions = {"labels": torch.arange(TEXTS) % 3}
    model = LatentDiffusion.create(*KINDS[kind]).train()
    randomize(model.denoiser)
    if kind == "blocks":
        randomize(model.context_encoder, seed=3)
        cut = np.flatnonzero(np.arange(TEXTS) % 4 % 3)
        parts = (Rows([torch.randn(len(cut), 6, 8, generator=generator)]) for _ in range(2))
        firsts = np.arange(TEXTS) // 4 * 4
        blocks = BlockLatents(Rows([latents]), firsts, 2, CutBlocks(cut, *parts), 0.1, **conditions)
        return BlockDiffusionStage(model, blocks, None, session)
    if kind == "v1":
        conditions["lengths"] = lengths
    else:
        states = torch.randn(int(lengths.sum()), 16, generator=generator)
        conditions["sources"] = SourceStates(Rows([states]), np.concatenate([[0], np.cumsum(lengths)]))
    return DiffusionStage(model, ConditionedLatents(Rows([latents]), **conditions), None, session)


def trained(kind: str, micro_batches: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Mean losses and gradient norms (STEPS, 2) and the parameters after them."""
    stage = make_stage(kind, micro_batches)
    train_step = TrainStep(stage, stage.session)
    figures = torch.stack([train_step(step, RATE) for step in range(STEPS)])
    figures = stage.session.accelerator.reduce(figures, "mean")
    return figures, {name: parameter.detach() for name, parameter in stage.module.named_parameters()}


def work(rank: int, port: int, path) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    results = {
        kind: trained(kind, micro_batches) for kind, micro_batches in (("v2", 2), ("v1", 1), ("blocks", 2))
    }
    torch.save(results, f"{path}.{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = tmp_path_factory.mktemp("two") / "results"
    torch.multiprocessing.spawn(work, (port, path), nprocs=2)
    return [torch.load(f"{path}.{rank}") for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns(of_two, kind):
    figures, parameters = trained(kind)
    for found, theirs in (results[kind] for results in of_two):
        torch.testing.assert_close(found, figures, rtol=1e-4, atol=1e-5)
        for name, parameter in parameters.items():
            # AdamW turns a gradient of rounding errors into a step of full length, so a few elements may differ.
            assert ((parameter - theirs[name]).abs() > RATE / 10).float().mean() < 0.05, name
    for name, mine in of_two[0][kind][1].items():
        assert torch.equal(mine, of_two[1][kind][1][name]), f"{name} is the same in both"


def seen(context: BlockContext) -> tuple[torch.Tensor, ...]:
    """What each row (B, …) of a context has, wherever it is held; 0 in the places of blocks that are not there."""
    most = CONTEXT["context_blocks"]
    real = torch.arange(most) >= most - context.num_blocks[:, None]
    missing = most - context.index.shape[1]
    found = []
    for tensor in (context.latents, context.noise, context.noise_share):
        rows = tensor[torch.nn.functional.pad(context.index, (missing, 0))]
        found.append(torch.where(real.view(*real.shape, *(1,) * (rows.dim() - 2)), rows, 0.0))
    return *found, context.num_blocks, context.begins, context.continues


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_agree_on_what_is_dropped(kind):
    stage = make_stage(kind)
    coins, dropped = set(), "blocks" if kind == "blocks" else "context"
    for step in range(2 * STEPS):
        _, whole, conditions = stage.batch(step, Part())
        coins.add((whole.self_condition, conditions[dropped] is None))
        for part in (Part(index, 4) for index in range(4)):
            _, draws, mine = stage.batch(step, part)
            assert draws.self_condition == whole.self_condition
            assert (mine[dropped] is None) == (conditions[dropped] is None)
            if mine.get("blocks") is not None:
                of_rows = zip(seen(mine["blocks"]), seen(conditions["blocks"]), strict=True)
                assert all(tensor.equal(part.of(whole_tensor)) for tensor, whole_tensor in of_rows)
            assert draws.class_drop.equal(part.of(whole.class_drop)) and draws.t.equal(part.of(whole.t))
    assert len(coins) == (2 if kind == "v1" else 4), "the steps see all of them"


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_gradient_are_those_that_the_stage_names(kind):
    stage = make_stage(kind)
    lacking = []
    for step in range(STEPS):
        stage.module.zero_grad()
        stage.loss(stage.module, stage.batch(step, Part())).backward()
        lacking += [name for name, parameter in stage.module.named_parameters() if parameter.grad is None]
    assert set(lacking) == set(stage.skipped)
