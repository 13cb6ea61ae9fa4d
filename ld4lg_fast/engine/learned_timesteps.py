"""Learned sampling times: a grid search for the time curve with which few steps come closest to many.

Curves are ``t(u) = (1 - u^a)^b`` (Kumaraswamy 1980; a = b = 1 are equal steps).
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from torch import Tensor

from ld4lg_fast.diffusion.latent_diffusion import LatentDiffusion
from ld4lg_fast.engine.engine import sample_latents

EXPONENTS = (0.75, 1.0, 1.3, 1.6, 2.0)
POINTS = 65  # of the curve that is kept
SAMPLES, FEW_STEPS, MANY_STEPS = 64, 8, 150
SAMPLER = "unipc"


def learn_timesteps(
    model: LatentDiffusion, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Stores the times of the best curve in the model's recipe, for the spacing ``learned``.

    Samples are unconditional: the null class, no source text. ``progress`` is called as ``progress(done, total)`` with
    network evaluations of `SAMPLES` samples.

    Returns:
        Root mean square errors in normalised latents, with ``equal`` steps and with ``learned`` ones, and the curve's
        ``a`` and ``b``.
    """
    limit = getattr(model.diffusion.schedule_for_sampling, "num_train_timesteps", MANY_STEPS)
    few, many = min(FEW_STEPS, limit), min(MANY_STEPS, limit)
    total, done = many + few * len(EXPONENTS) ** 2, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done // SAMPLES, total)

    def latents(num_steps: int, spacing: str) -> Tensor:
        samples = sample_latents(
            model,
            SAMPLES,
            sampler=SAMPLER,
            num_inference_steps=num_steps,
            spacing=spacing,
            seed=seed,
            progress=advance,
        )
        return model.normalize(samples)

    exact = latents(many, "time")
    errors: dict[tuple[float, float], float] = {}
    curves = {}
    for a, b in product(EXPONENTS, repeat=2):
        curves[a, b] = ((1 - np.linspace(0, 1, POINTS) ** a) ** b).tolist()
        model.recipe["learned_times"] = curves[a, b]
        errors[a, b] = (latents(few, "learned") - exact).square().mean().sqrt().item()
    best = min(errors, key=errors.__getitem__)
    model.recipe["learned_times"] = curves[best]
    return {"equal": errors[1.0, 1.0], "learned": errors[best], "a": best[0], "b": best[1]}
