"""Whether tokens' states cluster along t.

With one layer at every t they do: that is what theory says (Geshkovski et al. 2023, arXiv 2305.05465). So the
same model with the mean of its weights over t, or with its cells in another order, is there to compare with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from odeformer.analysis.flow import Along, flow_of, states
from odeformer.model import Odeformer


class Clustering(NamedTuple):
    """Of the N + 1 states along t, of every sequence: each [N + 1, batch]."""

    t: tuple[float, ...]
    effective_rank: Tensor
    """See :func:`effective_rank`."""
    mean_cosine: Tensor
    """Of the states of two different tokens, each less what all tokens share."""
    nearest: Tensor
    """How near the nearest other token is, the mean over tokens, as a part of the mean distance of two
    tokens: 1 where all are equally far, 0 where each has a twin."""


def clustering(
    model: Odeformer, input_ids: Tensor, depth: int | None = None, along: Along = "own"
) -> Clustering:
    """Of the states of ``input_ids`` [batch, tokens], at least 2 tokens.

    Args:
        along: which weights the cells of the flow have.
    """
    flow = flow_of(model, input_ids.shape[1], depth, along)
    visited = torch.stack(list(states(flow.cell_maps, model.embed(input_ids).detach())))
    return Clustering(flow.edges, effective_rank(visited), mean_cosine(visited), nearest_neighbour(visited))


def effective_rank(x: Tensor) -> Tensor:
    """exp of the entropy of the singular values, as parts of their sum (Roy and Vetterli 2007), of tokens'
    states less their mean: [..., tokens, width] → [...]. 1 where all lie on one line."""
    singular = torch.linalg.svdvals(x - x.mean(dim=-2, keepdim=True))
    parts = singular / singular.sum(-1, keepdim=True)
    return torch.special.entr(parts).sum(-1).exp()


def mean_cosine(x: Tensor) -> Tensor:
    """The mean cosine of two different tokens' states less their mean: [..., tokens, width] → [...]."""
    x = F.normalize(x - x.mean(dim=-2, keepdim=True), dim=-1)
    length = x.shape[-2]
    return (x.sum(-2).square().sum(-1) - length) / (length * (length - 1))


def nearest_neighbour(x: Tensor) -> Tensor:
    """Mean distance to the nearest other token over mean distance of two: [..., tokens, width] → [...]."""
    distances = torch.cdist(x, x)
    length = x.shape[-2]
    own = torch.eye(length, dtype=torch.bool, device=x.device)
    nearest = distances.masked_fill(own, torch.inf).amin(-1).mean(-1)
    return nearest / (distances.sum((-2, -1)) / (length * (length - 1)))
