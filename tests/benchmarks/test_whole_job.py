"""The headline benchmarks: the published pipeline has our numbers, and the headline follows its rule."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.remedies import Remedies
from ld4lg_fast import DecodingConfig, TextDiffusionPipeline
from ld4lg_fast.diffusion.samplers import path_noise
from ld4lg_fast.kernels import ops

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # as for scripts started there
time_to_quality, whole_job = map(importlib.import_module, ("time_to_quality", "whole_job"))
published_pipeline = importlib.import_module("benchmarks.published_pipeline").published_pipeline
System, Turn = whole_job.System, whole_job.Turn
STEPS = 8


@pytest.fixture(scope="module")
def shipped():
    return TextDiffusionPipeline.from_pretrained("e2e-small")


def published_latents(shipped, remedies):
    pipeline, ids = published_pipeline(shipped, STEPS), torch.arange(4)
    diffusion = pipeline.diffusion
    diffusion.diffusion_model = remedies.apply(diffusion.diffusion_model, padded=False)
    start, noise = ops.philox_normal(0, ids, 0, (8, 16)), path_noise(0, ids, (8, 16), STEPS)
    latents = diffusion.sample(4, z_start=start, noise=list(map(noise, range(STEPS))))
    return pipeline, diffusion.unnormalize_latent(latents)


@pytest.mark.parametrize("remedies", [Remedies(), Remedies(sdpa=True)], ids=["plain", "SDPA"])
def test_published_pipeline_has_the_shipped_models_latents_and_texts(shipped, remedies):
    pipeline, latents = published_latents(shipped, remedies)
    ours = shipped.sample(4, num_inference_steps=STEPS, seed=0).latents
    assert ((latents - ours).square().mean() / ours.square().mean()).sqrt() < 1e-4
    assert pipeline.decode(latents) == shipped.decode(ours, DecodingConfig("beam"))


def test_published_pipeline_needs_the_models_qk_norms(shipped):
    """The parity above would not hold without what published_pipeline.py adds."""
    pipeline, latents = published_latents(shipped, Remedies())
    with torch.no_grad():
        for name, gain in pipeline.diffusion.named_parameters():
            if name.endswith("gamma"):
                gain.mul_(2)
    other = pipeline.diffusion.sample(4, z_start=torch.zeros(4, 8, 16), noise=torch.zeros(STEPS, 4, 8, 16))
    plain = published_pipeline(shipped, STEPS).diffusion
    same = plain.sample(4, z_start=torch.zeros(4, 8, 16), noise=torch.zeros(STEPS, 4, 8, 16))
    assert not torch.allclose(other, same, atol=1e-2)


def row(name, seconds, mauve, ours=True):
    """Of a result, with MAUVEs by name as (mean, lower end)."""
    quality = {
        key: {"mean": mean, "interval_95": [low, 2 * mean - low]} for key, (mean, low) in mauve.items()
    }
    speedups = {} if not ours else {"published": {"ratio": 100 / seconds}}
    return {"name": name, "seconds": seconds, "ours": ours, "quality": quality, "speedup_vs": speedups}


PUBLISHED = row("published", 100, {"mauve": (0.30, 0.25), "mauve_sentence": (0.40, 0.35)}, ours=False)


def test_headline_is_the_fastest_of_ours_that_no_mauve_puts_below_published():
    rows = [
        PUBLISHED,
        row("slow", 20, {"mauve": (0.31, 0.29), "mauve_sentence": (0.45, 0.40)}),
        row("fast", 5, {"mauve": (0.28, 0.25), "mauve_sentence": (0.40, 0.36)}),
        row("wide interval", 2, {"mauve": (0.40, 0.20), "mauve_sentence": (0.40, 0.36)}),
        row("other MAUVE below", 1, {"mauve": (0.40, 0.39), "mauve_sentence": (0.30, 0.29)}),
    ]
    found = whole_job.headline(rows)
    assert found["fastest_of_equal_quality"] == "fast"
    assert found["of_equal_quality"] == ["slow", "fast"]
    assert found["speedup_vs"] == {"published": 20}


@pytest.mark.parametrize(
    "rows, reason",
    [
        ([PUBLISHED, row("fast", 5, {"mauve": (0.2, 0.1), "mauve_sentence": (0.5, 0.5)})], "below"),
        ([row("fast", 5, {"mauve": (0.2, 0.1)})], "no MAUVE"),
        ([row("published", 9, {}, ours=False), row("fast", 5, {})], "no MAUVE"),
    ],
)
def test_headline_without_a_winner_says_why(rows, reason):
    found = whole_job.headline(rows)
    assert found["fastest_of_equal_quality"] is None and reason in found["reason"]


def test_a_system_chooses_its_fastest_settings_and_takes_turns():
    work = {"light": 1, "heavy": 400}
    calls = []

    def denoiser(name):
        def run(turn, batch, steps):
            calls.append((name, batch, steps))
            square = torch.ones(200, 200)
            for _ in range(work[name] * (4 // batch)):
                square @ square
            return torch.zeros(turn.size, 1, 1)

        return run

    decoders = {"only": lambda latents, turn, batch: [f"{turn.seed} {number}" for number in turn.sample_ids]}
    system = System("s", True, 50, {name: denoiser(name) for name in ("heavy", "light")}, decoders)
    system.choose(Turn(9, 0, 4), [1, 2, 4])
    assert system.denoiser[0] == "light" and system.decoder[0] == "only"
    assert {steps for _, _, steps in calls} == {10}  # the trial's
    for first in (0, 4):
        system.take(Turn(0, first, 4))
    assert system.texts == {0: [f"0 {number}" for number in range(8)]}
    assert calls[-1][2] == 50 and len(system.denoise_s) == len(system.decode_s) == 2


def test_seconds_and_speedups_are_sums_of_turns():
    ours, published = (System(name, name == "ours", 1, {}, {}) for name in ("ours", "published"))
    published.denoise_s, published.decode_s = [6.0, 10.0], [2.0, 2.0]
    ours.denoise_s, ours.decode_s = [1.0, 1.0], [1.0, 1.0]
    found = whole_job.row_of(ours, [published, ours], num_seeds=2)
    assert (found["seconds"], found["denoise_s"], found["decode_s"]) == (2.0, 1.0, 1.0)
    speedup = found["speedup_vs"]["published"]
    assert speedup["ratio"] == 5.0 and 4.0 <= speedup["p20"] <= speedup["p80"] <= 6.0
    assert whole_job.row_of(published, [published, ours], 2)["speedup_vs"] == {}


def test_whole_job_runs(tmp_path, capsys):
    target = tmp_path / "whole_job.json"
    systems = ["published", "ours, draft"]
    whole_job.main(
        [
            *("--quick", "--dataset", "demo", "--work", str(tmp_path), "--json", str(target)),
            *("--systems", *systems),
        ]
    )
    result = json.loads(target.read_text())
    assert [each["name"] for each in result["systems"]] == systems
    for each in result["systems"]:
        assert each["seconds"] == pytest.approx(each["denoise_s"] + each["decode_s"])
        assert each["quality"]["perplexity"]["mean"] > 1 and len(each["texts"]) == 16
    assert result["systems"][1]["speedup_vs"]["published"]["ratio"] > 1
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result["headline"]
    assert target.with_suffix(".png").stat().st_size > 1000


def test_whole_job_refuses_turns_that_leave_a_rest_and_unknown_systems(tmp_path, capsys):
    for options, sentence in (
        (["--num-samples", "10", "--turn", "4"], "--turn 4 does not divide --num-samples 10"),
        (["--systems", "theirs"], "unknown system 'theirs'"),
    ):
        with pytest.raises(SystemExit):
            whole_job.main([*options, "--work", str(tmp_path)])
        assert sentence in capsys.readouterr().err


def curve(recipe, *means):
    return [
        {"recipe": recipe, "minutes": minutes, "quality": {"mauve": {"mean": mean}}}
        for minutes, mean in zip((1, 2, 4), means, strict=False)
    ]


def test_time_to_quality_is_the_shortest_training_that_reaches_v2s_best():
    found = time_to_quality.headline(
        {"v2": curve("v2", 0.05, 0.20, 0.15), "v3": curve("v3", 0.10, 0.30, 0.4)}
    )
    assert found["mauve"] == {
        "level": 0.20,
        "times": {"v2": {"minutes": 2, "at_most": False}, "v3": {"minutes": 2, "at_most": False}},
        "speedup": 1.0,
    }
    at_once = time_to_quality.headline({"v2": curve("v2", 0.1, 0.2), "v3": curve("v3", 0.3, 0.3)})
    assert at_once["mauve"]["times"]["v3"] == {"minutes": 1, "at_most": True}
    never = time_to_quality.headline({"v2": curve("v2", 0.1, 0.2), "v3": curve("v3", 0.1, 0.1)})
    assert never["mauve"]["speedup"] is None and never["mauve"]["times"]["v3"]["minutes"] is None
