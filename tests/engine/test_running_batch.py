"""Samples that enter and leave a running batch at any step are those that a run of their own gives."""

import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.diffusion.samplers import SAMPLERS
from ld4lg_fast.engine import cuda_graphs
from ld4lg_fast.engine.bucket_graphs import buckets
from ld4lg_fast.engine.engine import sample_latents
from ld4lg_fast.engine.running_batch import RunningBatch, RunningSamples
from ld4lg_fast.engine.step_table import Plan
from tests.conftest import make_model
from tests.engine.test_engine import assert_near, make_v1

# Models by what their samples may have: classes, a source, lengths of their own, latents of unit norm.
MODELS = {
    "plain": lambda: make_model(num_dense_connections=1),
    "classes": lambda: make_model(num_classes=3),
    "source": lambda: make_model(dim_context=16),
    "source and classes": lambda: make_model(dim_context=16, num_classes=3),
    "no self-condition": lambda: make_model(self_condition=False),
    "lengths": make_v1,
    "lengths and classes": lambda: make_v1(num_classes=3),
}


@dataclass(eq=False)
class Job:
    """A sample of one request, and what it is conditioned on."""

    plan: Plan
    seed: int
    sample_id: int
    arrives: int
    class_id: int | None = None
    length: int | None = None
    context: torch.Tensor | None = None
    start: torch.Tensor | None = None

    def alone(self, model: LatentDiffusion) -> torch.Tensor:
        """The sample (N, d) of a run of its own."""
        plan = self.plan
        options: dict[str, Any] = {} if plan.sampler != "ddim" else {"eta": plan.eta}
        if self.context is not None:
            options |= {"context": self.context, "project": project(model)}
        if self.start is not None:
            options |= {"start": self.start, "strength": plan.strength}
        lengths = None if self.length is None else torch.tensor([self.length])
        return sample_latents(
            model,
            1,
            sampler=plan.sampler,
            num_inference_steps=plan.num_steps,
            guidance_scale=plan.guidance_scale,
            seed=self.seed,
            sample_ids=[self.sample_id],
            class_id=self.class_id,
            lengths=lengths,
            **options,
        )[0]

    def enter(self, model: LatentDiffusion, running: RunningSamples) -> None:
        batch = running.of(self.plan)
        assert batch.make_room(self.plan, self.class_id)
        batch.enter(
            [self],
            self.plan,
            seed=self.seed,
            sample_ids=torch.tensor([self.sample_id]),
            class_id=self.class_id,
            lengths=None if self.length is None else torch.tensor([self.length]),
            context=self.context,
            start=None if self.start is None else model.normalize(self.start),
        )


def project(model: LatentDiffusion) -> bool:
    return bool(getattr(model.denoiser.config, "dim_context", 0))


def make_jobs(model: LatentDiffusion, seed: int, count: int = 14) -> list[Job]:
    chance, config = random.Random(seed), model.denoiser.config
    has_context = project(model)
    names = sorted(SAMPLERS)
    jobs = []
    for number in range(count):
        guided = (config.num_classes or has_context) and chance.random() < 0.5
        starts = chance.random() < 0.3
        sampler = names[number % len(names)]
        plan = Plan(
            sampler,
            chance.randint(2, 7),
            guidance_scale=2.0 if guided else 1.0,
            eta=0.5 if sampler == "ddim" else 0.0,
            strength=0.6 if starts else 1.0,
        )
        noise = torch.Generator().manual_seed(chance.randrange(2**31))
        jobs.append(
            Job(
                plan,
                chance.choice((3, 2**64 - 1)),
                chance.randrange(50),
                arrives=chance.randrange(12),
                class_id=chance.randrange(3) if config.num_classes else None,
                length=chance.randint(1, 6) if model.diffusion.discrete else None,
                context=torch.randn(1, chance.randint(1, 5), 16, generator=noise) if has_context else None,
                start=torch.randn(1, 6, 8, generator=noise) if starts else None,
            )
        )
    return jobs


def run_all(
    model: LatentDiffusion, running: RunningSamples, jobs: list[Job], gone: dict[Job, int] | None = None
) -> dict[Job, torch.Tensor]:
    """Runs until all jobs are done, those of ``gone`` until they leave after so many steps."""
    found: dict[Job, torch.Tensor] = {}
    step = 0
    while len(running) or any(job.arrives >= step for job in jobs):
        for job in jobs:
            if job.arrives == step:
                job.enter(model, running)
        running.leave({job for job, after in (gone or {}).items() if step == job.arrives + after})
        if len(running):
            running.advance()
            found |= running.take_finished()
        step += 1
    return found


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", MODELS)
def test_a_sample_is_the_same_whatever_else_runs(kind, seed):
    model = MODELS[kind]()
    jobs = make_jobs(model, seed)
    gone = dict.fromkeys(jobs[::5], 1)  # of at least two steps
    found = run_all(model, RunningSamples(model, capacity=32, project=project(model)), jobs, gone)
    assert set(found) == set(jobs) - set(gone)
    for job, latents in found.items():
        assert_near(latents, job.alone(model))


def test_samples_without_guidance_cost_one_evaluation(monkeypatch):
    model, rows = make_model(num_classes=3), []
    running = RunningSamples(model, capacity=8)
    denoiser = running.batches[0].denoiser
    run_blocks = denoiser.run_blocks

    def watch(*inputs):
        rows.append(len(output := run_blocks(*inputs)))
        return output

    monkeypatch.setattr(denoiser, "run_blocks", watch)
    scales = (1.0, 1.0, 1.0, 2.0)
    jobs = [Job(Plan("unipc", 2, guidance_scale=w), 0, n, 0, class_id=1) for n, w in enumerate(scales)]
    run_all(model, running, jobs)
    assert rows == [3, 2] * 2


def test_what_is_shown_is_predicted_by_the_step(monkeypatch):
    model = make_model()
    seen = []
    sample_latents(
        model,
        1,
        sampler="ddim",
        num_inference_steps=4,
        seed=3,
        callback=lambda step, rows, x_start: seen.append(model.unnormalize(x_start[0])),
    )
    running, job = RunningSamples(model, capacity=8), Job(Plan("ddim", 4), 3, 0, 0)
    job.enter(model, running)
    for want in seen[:3]:
        running.advance()
        assert running.take_finished() == {}
        assert_near(running.predicted([job])[job], want)


@pytest.mark.parametrize("express", [False, True])
def test_a_plan_waits_until_the_table_has_room_for_it(express, monkeypatch):
    per_step = 2 * 64 * 2  # scale and shift of two blocks
    monkeypatch.setattr("ld4lg_fast.engine.plan_table.TABLE_ELEMENTS", 10 * per_step)
    model = make_model()
    running = RunningSamples(model, capacity=8)
    assert running.of(Plan("ddim", 6)).table.size == 10
    first, second = Job(Plan("ddim", 6), 1, 0, 0), Job(Plan("ddpm", 5), 1, 0, 0)
    first.enter(model, running)
    batch = running.of(second.plan, express=express)
    assert not batch.make_room(second.plan) and batch.make_room(first.plan)
    found = run_all(model, running, [])
    second.enter(model, running)
    found |= run_all(model, running, [])
    for job in (first, second):
        assert_near(found[job], job.alone(model))


@pytest.mark.parametrize("kind", ["classes", "source", "lengths and classes"])
def test_graphs_of_a_few_sizes_give_the_same_samples(kind, monkeypatch):
    """With a stand-in for `Capture`, on a CPU: it records the function and runs it on replay."""
    captured = []

    def capture(_, run):
        captured.append(run)
        return run

    monkeypatch.setattr(cuda_graphs.Capture, "__call__", capture)
    model = MODELS[kind]()
    running = RunningSamples(model, capacity=5, project=project(model))
    running.batches = running.ordinary = [
        RunningBatch(
            model, batch.denoiser, guided=batch.guided, capacity=5, project=project(model), cuda_graph=True
        )
        for batch in running.ordinary
    ]
    jobs = make_jobs(model, 2, count=10)
    for number, job in enumerate(jobs):
        job.arrives = 2 * number
    found = run_all(model, running, jobs)
    for job in jobs:
        assert_near(found[job], job.alone(model))
    sizes = [len(run.__defaults__[0]) for run in captured]
    assert sizes == [5, 4, 2, 1] * (1 + any(job.plan.guidance_scale != 1.0 for job in jobs))


def test_rows_that_hold_no_sample_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(cuda_graphs.Capture, "__call__", lambda _, run: run)
    model = make_model()
    batch: RunningBatch[int] = RunningBatch(model, model.denoiser, guided=False, capacity=4, cuda_graph=True)
    plan = Plan("ddpm", 6)
    assert batch.make_room(plan)
    batch.enter([0, 1, 2], plan, seed=0, sample_ids=torch.arange(3))
    for _ in range(6):
        batch.advance()
    assert batch.graphs is not None and batch.graphs.buffers is not None
    assert batch.graphs.buffers.step.tolist() == [5, 5, 5, 0]


@pytest.mark.parametrize(("capacity", "sizes"), [(1, [1]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])])
def test_buckets(capacity, sizes):
    assert buckets(capacity) == sizes
