"""Whether a sample depends on the others of its batch: not at all in deterministic mode, else up to a stated bound.

The grid has every sampler, precision and recipe, with classes, sources, guides and lengths. A sample is compared alone,
in batches of other sizes and orders, with another number of threads, repeated, and in a running batch that others enter
and leave.
"""

from contextlib import contextmanager

import pytest
import torch

from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.engine.engine import checked_plan, sample_latents
from ld4lg_fast.engine.running_batch import RunningSamples
from ld4lg_fast.errors import ConfigError
from ld4lg_fast.kernels import backend
from tests.conftest import make_model
from tests.engine.test_engine import make_v1
from tests.engine.test_guided_steps import make_targets
from tests.engine.test_running_batch import MODELS

COUNT, STEPS, SEED = 5, 4, 3
PRECISIONS = ("fp32", "bf16", "int8")
BOUNDS = {"fp32": 1e-4, "bf16": 0.06, "int8": 0.06}  # of the largest latent, without deterministic mode
WAYS = [*((name, None) for name in sorted(SAMPLERS)), ("ddim", 1.0)]
MAKERS = MODELS | {"guides": make_model, "guides and lengths": make_v1}
KINDS = tuple(MAKERS)

pytestmark = pytest.mark.skipif(not backend.has_native(), reason="needs the C++ library")


def generator():
    return torch.Generator().manual_seed(11)


def make(kind, deterministic=True):
    """A model of a kind and the conditions of its samples, a row each."""
    model = MAKERS[kind]()
    model.deterministic = deterministic
    given = {}
    if "classes" in kind:
        given["class_id"] = torch.tensor([0, 2, 1, 2, 0])
    if "source" in kind:
        given["context"] = torch.randn(COUNT, 7, 16, generator=generator())
        given["context_mask"] = torch.arange(7) < torch.tensor([7, 2, 5, 1, 3])[:, None]
    if "lengths" in kind:
        given["lengths"] = torch.tensor([2, 6, 5, 3, 4])
    if "guides" in kind:
        targets = make_targets(8 if "lengths" in kind else 48)
        given["guides"] = targets.rows(torch.tensor([0, 2, 1, 0, 2]))
    return model, given


def options_of(kind, sampler, eta):
    guided = "source" in kind or "classes" in kind
    return {"sampler": sampler, "eta": eta, "guidance_scale": 2.0 if guided else 1.0}


def rows_of(given, rows):
    picked = torch.tensor(rows)
    return {name: value.rows(picked) if name == "guides" else value[picked] for name, value in given.items()}


def latents(model, given, rows, precision, options, batch_size=64):
    return sample_latents(
        model,
        len(rows),
        sample_ids=rows,
        num_inference_steps=STEPS,
        seed=SEED,
        precision=precision,
        batch_size=batch_size,
        **options,
        **rows_of(given, rows),
    )


@contextmanager
def other_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_a_running_batch(model, given, precision, options):
    """The samples (COUNT, N, d) of a batch that they enter at different steps."""
    guides = given.get("guides")
    running = RunningSamples(
        model, capacity=8, precision=precision, guides=() if guides is None else guides.guides
    )
    plan = checked_plan(
        model,
        options["sampler"],
        STEPS,
        eta=options["eta"],
        guidance_scale=options["guidance_scale"],
        has_context="context" in given,
    )
    batch, finished = running.of(plan, guides is not None), {}
    for arriving in ([0, 3], [], [1], [2, 4], [], [], [], []):
        for row in arriving:
            own = rows_of(given, [row])
            class_id = own["class_id"].item() if "class_id" in own else None
            led = (
                {} if guides is None else {"targets": own["guides"].targets, "weights": own["guides"].weights}
            )
            others = {name: own[name] for name in ("lengths", "context", "context_mask") if name in own}
            assert batch.make_room(plan, class_id)
            ids = torch.tensor([row])
            batch.enter([row], plan, seed=SEED, sample_ids=ids, class_id=class_id, **led, **others)
        if len(running):
            running.advance()
            finished |= running.take_finished()
    return torch.stack([finished[row] for row in range(COUNT)])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sampler", "eta"), WAYS)
def test_a_sample_has_the_same_bits_in_every_batch(sampler, eta, kind, precision):
    (model, given), options = make(kind), options_of(kind, sampler, eta)
    every = list(range(COUNT))
    whole = latents(model, given, every, precision, options)
    for rows in ([0], [3], [4, 1], [2, 0, 3, 1, 4]):
        assert torch.equal(latents(model, given, rows, precision, options), whole[rows])
    assert torch.equal(latents(model, given, every, precision, options, batch_size=2), whole)
    with other_threads():  # as in two processes, which share the cores
        halves = [latents(model, given, rows, precision, options) for rows in (every[::2], every[1::2])]
    assert torch.equal(halves[0], whole[::2]) and torch.equal(halves[1], whole[1::2])
    assert torch.equal(in_a_running_batch(model, given, precision, options), whole)
    assert whole.isfinite().all() and (whole[0] - whole[1]).abs().max() > 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_without_the_mode_a_sample_moves_by_rounding(kind, precision):
    (model, given), options = make(kind, deterministic=False), options_of(kind, "ddpm", None)
    whole = latents(model, given, list(range(COUNT)), precision, options)
    alone = torch.cat([latents(model, given, [row], precision, options) for row in range(COUNT)])
    moved = ((alone - whole).abs().max() / whole.abs().max()).item()
    print(f"{kind}, {precision}: {moved:.2g}")
    assert moved <= BOUNDS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_mode_computes_what_the_engine_computes_without_it(precision):
    results = []
    for deterministic in (True, False):
        model, given = make("source and classes", deterministic)
        options = options_of("source and classes", "unipc", None)
        results.append(latents(model, given, list(range(COUNT)), precision, options))
    assert (results[0] - results[1]).abs().max() <= BOUNDS[precision] * results[1].abs().max()


def test_what_cannot_be_deterministic_is_refused():
    model, _ = make("plain")
    with pytest.raises(
        ConfigError, match="precision is fp16; with deterministic=true it must be fp32, bf16 or"
    ):
        sample_latents(model, 1, num_inference_steps=2, precision="fp16")
    model.denoiser.to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"needs weights in fp32, not torch\.bfloat16; leave out the dtype"):
        sample_latents(model, 1, num_inference_steps=2)
