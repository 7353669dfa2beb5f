"""The depths of a step's passes: a pure function of the settings, the seed and the step."""

from __future__ import annotations

from cluster.settings import TrainSettings
from odeformer.depth import batch_depth


def step_depths(train: TrainSettings, model_depth: int, seed: int, step: int) -> list[int]:
    """The depths N of a step's passes over its batch: one drawn depth, or the model depth and another one.

    Depths may be drawn late in the run only (``train.vary_from``): a flow is accurate on finer grids without
    such training, and for coarser grids the last steps suffice.

    Two passes, at the model depth and at another one, follow the sandwich rule of slimmable networks, and
    distillation from the first to the second is their in-place distillation (Yu & Huang 2019, arXiv
    1903.05134), with depth instead of width.
    """
    if not train.depths or step < train.vary_from * train.steps:
        return [model_depth]
    if train.objective == "one_depth":
        return [batch_depth(seed, step, train.depths)]
    others = [depth for depth in train.depths if depth != model_depth]
    return [model_depth, batch_depth(seed, step, others)]
