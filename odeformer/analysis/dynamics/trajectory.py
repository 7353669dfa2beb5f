"""Measures of the states along t: how far they move, and whether tokens cluster.

With the same layer at every t, theory predicts that tokens cluster (Geshkovski et al. 2023, arXiv
2305.05465). The same model with averaged weights, or with its cells shuffled, serves as a control.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.analysis.flow import Along, Flow, flow_of, states
from odeformer.model import Odeformer


class Movement(NamedTuple):
    """Speed and turning of the states along t."""

    t: tuple[float, ...]
    """The times of the N + 1 states."""
    speed: Tensor
    """[N, batch]: ‖x(t + h) − x(t)‖ / h, averaged over tokens."""
    turning: Tensor
    """[N − 1, batch]: angle between consecutive steps in radians, averaged over tokens."""


class Clustering(NamedTuple):
    """Clustering of the tokens' states along t; each measure is [N + 1, batch]."""

    t: tuple[float, ...]
    """The times of the N + 1 states."""
    effective_rank: Tensor
    """The number of directions in which states differ."""
    mean_cosine: Tensor
    """Mean cosine similarity of two tokens' centered states."""
    nearest: Tensor
    """Mean distance to the nearest token, relative to the mean distance: 1 if all tokens are equally far, 0
    if each has a duplicate."""


def movement(model: Odeformer, input_ids: Tensor, depth: int | None = None) -> Movement:
    """Movement of the states of ``input_ids`` [batch, tokens] along t."""
    flow, visited = _trajectory(model, input_ids, depth)
    steps = visited.diff(dim=0)
    widths = torch.tensor(flow.widths, dtype=steps.dtype, device=steps.device)
    angles = F.cosine_similarity(steps[:-1], steps[1:], dim=-1).clamp(-1, 1).acos()
    return Movement(flow.edges, steps.norm(dim=-1).mean(-1) / widths[:, None], angles.mean(-1))


def clustering(
    model: Odeformer, input_ids: Tensor, depth: int | None = None, along: Along = "own"
) -> Clustering:
    """Clustering of the states of ``input_ids`` [batch, tokens], at least 2 tokens."""
    flow, visited = _trajectory(model, input_ids, depth, along)
    return Clustering(flow.edges, effective_rank(visited), mean_cosine(visited), nearest_neighbor(visited))


def _trajectory(
    model: Odeformer, input_ids: Tensor, depth: int | None, along: Along = "own"
) -> tuple[Flow, Tensor]:
    """The flow and its states [N + 1, batch, tokens, width]."""
    flow = flow_of(model, input_ids.shape[1], depth, along)
    return flow, torch.stack(list(states(flow.cell_maps, model.embed(input_ids).detach())))


def effective_rank(x: Tensor) -> Tensor:
    """Effective rank (Roy and Vetterli 2007) of centered states: [..., tokens, width] → [...].

    It is the exponential of the entropy of the normalized singular values: 1 if all states lie on one line.
    """
    singular = torch.linalg.svdvals(x - x.mean(dim=-2, keepdim=True))
    shares = singular / singular.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp()


def mean_cosine(x: Tensor) -> Tensor:
    """Mean cosine similarity of two tokens' centered states: [..., tokens, width] → [...]."""
    x = F.normalize(x - x.mean(dim=-2, keepdim=True), dim=-1)
    length = x.shape[-2]
    return (x.sum(-2).square().sum(-1) - length) / (length * (length - 1))


def nearest_neighbor(x: Tensor) -> Tensor:
    """Mean nearest-neighbor distance over mean pairwise distance: [..., tokens, width] → [...]."""
    distances = torch.cdist(x, x)
    length = x.shape[-2]
    diagonal = torch.eye(length, dtype=torch.bool, device=x.device)
    nearest = distances.masked_fill(diagonal, torch.inf).amin(-1).mean(-1)
    return nearest / (distances.sum((-2, -1)) / (length * (length - 1)))
