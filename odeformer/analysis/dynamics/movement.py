"""Where along t the work is done."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.analysis.flow import flow_of, states
from odeformer.model import Odeformer


class Movement(NamedTuple):
    """Of the states along t, of every sequence."""

    t: tuple[float, ...]
    """Of the N + 1 states."""
    speed: Tensor
    """[N, batch]: ‖x(t + h) − x(t)‖ / h, the mean over tokens."""
    turning: Tensor
    """[N − 1, batch]: the angle between one step and the next one in radians, the mean over tokens."""


def movement(model: Odeformer, input_ids: Tensor, depth: int | None = None) -> Movement:
    """How the states of ``input_ids`` [batch, tokens] move along t."""
    flow = flow_of(model, input_ids.shape[1], depth)
    steps = torch.stack(list(states(flow.cell_maps, model.embed(input_ids).detach()))).diff(dim=0)
    widths = torch.tensor(flow.widths, dtype=steps.dtype, device=steps.device)
    angles = F.cosine_similarity(steps[:-1], steps[1:], dim=-1).clamp(-1, 1).acos()
    return Movement(flow.edges, steps.norm(dim=-1).mean(-1) / widths[:, None], angles.mean(-1))
