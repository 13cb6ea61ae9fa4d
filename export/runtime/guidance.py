"""The denoiser's graph with its conditions bound and classifier-free guidance, as a sampler calls it.

Letters: B batch, N latent positions, d latent width.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from .folder_schema import Diffusion
from .sampling import Network
from .schedules import SamplingGrid
from .session import Feeds, Session


def guided_network(
    diffusion: Diffusion,
    graph: Session,
    grid: SamplingGrid,
    scales: Sequence[float],
    conditions: Mapping[str, np.ndarray],
) -> Network:
    """The network for `sample`; guided steps (scale not 1) run a doubled batch, its second half unconditional.

    ``conditions`` are the inputs of the denoiser's ``graph`` that are constant over all steps.
    """
    plain: Feeds = {name: graph.place(value) for name, value in conditions.items()}
    both: Feeds = {}
    if any(scale != 1.0 for scale in scales):
        doubled = {name: np.concatenate([value, value]) for name, value in conditions.items()}
        for name, without in (("class_id", diffusion.num_classes), ("has_source", False)):
            if name in doubled:
                doubled[name][len(doubled[name]) // 2 :] = without
        both = {name: graph.place(value) for name, value in doubled.items()}

    def network(z_t: np.ndarray, step: int, x_self_cond: np.ndarray | None) -> np.ndarray:
        scale = np.float32(scales[step])
        copies = 1 if scale == 1 else 2
        rows = copies * len(z_t) if diffusion.class_modulates else 1
        feeds = dict(plain if copies == 1 else both)
        feeds["z_t"] = np.tile(z_t, (copies, 1, 1))
        feeds["time"] = np.full(rows, grid.network_time[step], np.float32)
        if diffusion.self_condition:
            known = np.zeros_like(z_t) if x_self_cond is None else x_self_cond
            feeds["x_self_cond"] = np.tile(known, (copies, 1, 1))
            feeds["has_self_cond"] = np.array([x_self_cond is not None])
        output = graph.run(feeds, {"output": feeds["z_t"].shape})["output"].numpy()
        if copies == 1:
            return output
        cond, uncond = np.split(output, 2)
        return scale * cond + (1 - scale) * uncond

    return network
