"""One step of the optimiser: micro-batches, recomputed activations and compiled blocks change no number."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training_models import OneProcess
from ld4lg_fast.autoencoder.latent_augmentation import LatentAugmentation
from ld4lg_fast.data import generate_demo_texts, tokenize_texts
from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.engine.regional_compile import regions
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels.backend import use_backend
from ld4lg_fast.training.autoencoder_stage import AutoencoderStage
from ld4lg_fast.training.conditioned_latents import ConditionedLatents
from ld4lg_fast.training.diffusion_stage import DiffusionStage
from ld4lg_fast.training.graphed_step import CapturedStep, _Captured, check_capture
from ld4lg_fast.training.session import Session
from ld4lg_fast.training.shards import Rows
from ld4lg_fast.training.train_section import StageOptions
from ld4lg_fast.training.train_step import Part, TrainStep
from tests.conftest import RECIPE, make_model

STEPS, RATE = 4, 1e-2


def make_stage(session):
    """The diffusion stage on random latents, without an autoencoder behind them."""
    latents = torch.randn(32, 6, 8, generator=torch.Generator().manual_seed(1))
    return DiffusionStage(make_model().train(), ConditionedLatents(Rows([latents])), None, session)


def make_session(compiled=False, micro_batches=1, activation_checkpointing=False, cuda_graph=False):
    options = SimpleNamespace(
        diffusion=StageOptions(100, 8, RATE, 10, 0.1, 1.0, 0.9, micro_batches),
        activation_checkpointing=activation_checkpointing,
        cuda_graph=cuda_graph,
        compiles=lambda device: compiled,
    )
    return Session(Accelerator(cpu=True), None, options, 3, None, None, None)


def trained(session, steps=STEPS):
    """Losses, norms (steps, 2) and the parameters after them."""
    stage = make_stage(session)
    train_step = TrainStep(stage, session)
    figures = torch.stack([train_step(step, RATE) for step in range(steps)])
    return figures, [parameter.detach() for parameter in stage.module.parameters()]


@pytest.fixture(scope="module")
def plain():
    return trained(make_session())


def assert_same(one, other, steps=STEPS):
    torch.testing.assert_close(one[0], other[0], rtol=1e-4, atol=1e-5)
    # AdamW turns a gradient of rounding errors into a step of full length, so a few elements may differ by one.
    for a, b in zip(one[1], other[1], strict=True):
        assert (a - b).abs().max() <= 2.5 * RATE * steps and ((a - b).abs() > 1e-3).float().mean() < 0.02


def test_the_losses_fall_and_the_weights_move(plain):
    untrained = list(make_model().parameters())
    assert sum(not a.equal(b) for a, b in zip(plain[1], untrained, strict=True)) > 20
    assert plain[0].isfinite().all() and plain[0][:, 1].min() > 0


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_accumulated_gradients_are_those_of_the_whole_batch(plain, micro_batches):
    assert_same(trained(make_session(micro_batches=micro_batches)), plain)


def test_recomputed_activations_change_nothing(plain, monkeypatch):
    from ld4lg_fast.engine import regional_compile as module

    calls = []
    checkpoint = module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: calls.append(1) or checkpoint(*a, **k))
    assert_same(trained(make_session(activation_checkpointing=True)), plain)
    assert len(calls) >= 4 * STEPS, "two blocks of two regions"


def test_compiled_regions_change_nothing(plain, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(type(self).__name__))
    assert_same(trained(make_session(compiled=True)), plain)
    assert compiled == ["SelfAttention", "GEGLUFeedForward"] * 2


def test_captured_steps_change_nothing(monkeypatch):
    """With a capture that only remembers what to run, as a GPU's does, and what a graph would have read by then."""
    captures, steps = [], 8
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", lambda _, run: captures.append(run) or run)
    runs = []
    for cuda_graph in (False, True):
        stage = make_stage(make_session(cuda_graph=cuda_graph))
        train_step = TrainStep(stage, stage.session)
        rates = [2.0 ** -(7 + step % 3) for step in range(steps)]
        figures = torch.stack([train_step(step, rate) for step, rate in enumerate(rates)])
        runs.append((figures, *stage.module.parameters(), *stage.ema.module.parameters()))
    torch.testing.assert_close(runs[1], runs[0], rtol=0, atol=0)
    coins = [stage.batch(step, Part())[1].self_condition for step in range(steps)]
    assert len(captures) == sum(coins.count(coin) > 1 for coin in (True, False)) > 0, (
        "one a kind, after its first"
    )


def test_a_graph_is_given_what_changes_from_step_to_step_in_tensors():
    """What it would read from the host is what was there when it was cuda_graphs."""
    session = make_session(cuda_graph=True)
    train_step = TrainStep(make_stage(session), session)
    groups = train_step.optimizer.param_groups
    given = [group["lr"] for group in groups]
    train_step(3, RATE)
    for group, rate in zip(groups, given, strict=True):
        assert group["lr"] is rate and rate == RATE and group["capturable"]
    assert train_step.share == 1 - train_step.stage.ema.decay(3)


def test_a_replay_reads_and_writes_the_buffers_of_its_graph():
    step = CapturedStep(lambda batch: batch["x"].sum())
    known = _Captured({"x": torch.zeros(2)}, torch.tensor(7.0))
    step({"x": torch.ones(2)})
    (kind,) = step.kinds
    step.kinds[kind] = known
    figures = step({"x": torch.tensor([1.0, 2.0])})
    assert figures == 7 and figures is not known.figures and known.batch["x"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("device", "processes", "micro_batches", "adaptive", "teacher", "said"),
    [
        ("cpu", 1, 1, False, None, "needs a GPU, not cpu"),
        ("cuda", 2, 1, False, None, "not 2 and 1"),
        ("cuda", 1, 4, False, None, "not 1 and 4"),
        ("cuda", 1, 1, True, None, "with recipe.adaptive_schedule=true"),
        ("cuda", 1, 1, False, "outputs/foo", "with train.distill_from=outputs/foo"),
    ],
)
def test_a_cuda_graph_is_refused_where_there_can_be_none(
    device, processes, micro_batches, adaptive, teacher, said
):
    known = SimpleNamespace(device=torch.device(device), num_processes=processes)
    options = SimpleNamespace(diffusion=SimpleNamespace(micro_batches=micro_batches), distill_from=teacher)
    with pytest.raises(ConfigError, match=said):
        check_capture(known, options, adaptive)


class HostWaits(TorchDispatchMode):
    """Notes the operations for whose result the host would wait if the tensors were on a GPU."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            self.seen.append(str(operation))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize("stage", ["autoencoder", "diffusion"])
def test_the_host_never_waits_within_a_step(stage, autoencoder):
    session = make_session()
    if stage == "diffusion":
        train_step = TrainStep(make_stage(session), session)
    else:
        session.options.autoencoder = session.options.diffusion
        tokens = tokenize_texts(generate_demo_texts(32), autoencoder.tokenizer, autoencoder.max_len)
        augmentation = LatentAugmentation(decoder_noise=0.1, position_dropout=0.1, token_masking=0.1)
        train_step = TrainStep(
            AutoencoderStage(autoencoder.train(), tokens, [], session, augmentation), session
        )
    batches = [train_step.stage.batch(step, Part()) for step in range(STEPS)]  # made on the host
    train_step.stage.batch = lambda step, part: batches[step]
    with use_backend("reference"), HostWaits() as waits:
        for step in range(STEPS):
            train_step(step, RATE)
        assert waits.seen == []
        torch.ones(()).item()
    assert len(waits.seen) == 1, "reading a number is noticed"


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replayed_steps_on_a_gpu(dtype, compiled):
    runs = []
    for cuda_graph in (False, True):
        session = make_session(cuda_graph=cuda_graph, compiled=compiled)
        autocast = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)
        session.accelerator = OneProcess(torch.device("cuda"), autocast)
        runs.append(trained(session, steps=12))
    assert_same(*runs, steps=12)


def test_regions_of_a_language_autoencoder(autoencoder):
    kinds = [type(region).__name__ for region in regions(autoencoder)]
    assert kinds.count("BartEncoderLayer") == kinds.count("BartDecoderLayer") == 1
    assert {"PerceiverAttention", "RMSSelfAttention"} <= set(kinds)


def test_the_passes_of_recipe_v1_are_counted():
    recipe = RECIPE | {"version": "v1", "beta_schedule": "linear", "num_train_timesteps": 50}
    sizes = {"dim": 64, "depth": 1, "dim_latent": 8, "max_len": 6, "dropout": 0.0}
    model, latents = LatentDiffusion.create(recipe, sizes), torch.randn(4, 6, 8)
    draws, flops = model.draw(latents, torch.Generator().manual_seed(0)), []
    for coin in (False, True):
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            model(latents, replace(draws, self_condition=coin)).loss.backward()
        flops.append(counter.get_total_flops())
    assert 0 < flops[0] < flops[1] < 2 * flops[0], "a pass forwards more"
