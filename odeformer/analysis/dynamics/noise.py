"""What noise on the embeddings does: predicted by derivatives, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.analysis.dynamics.tangents import move
from odeformer.analysis.flow import flow_of
from odeformer.model import Odeformer

DRAWS = 8


class Amplification(NamedTuple):
    """Of noise of one size on the embeddings of one sequence, the mean over draws."""

    size: float
    """‖noise‖ / ‖embeddings‖."""
    predicted: float
    """‖change of x(1)‖ / ‖noise‖ by the derivative: √(mean of e^(2λ)) over all exponents λ of the whole
    way."""
    measured: float
    """The same of the states themselves."""
    relative: float
    """‖change of x(1)‖ / ‖x(1)‖ over ``size``, measured: what a percent of noise becomes."""
    same_answer: float
    """How many of all positions' likeliest next tokens stay what they were, from 0 to 1."""


@torch.no_grad()
def amplification(
    model: Odeformer, input_ids: Tensor, sizes: Sequence[float], depth: int | None = None, seed: int = 0
) -> list[Amplification]:
    """Of Gaussian noise on the embeddings of ``input_ids`` [1, tokens], the same draws for every size.

    Args:
        sizes: ‖noise‖ / ‖embeddings‖.
    """
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids)
    noise = noise_on(x, 1.0, DRAWS, seed)
    moved, end = noise[:, None].clone(), x
    for step in flow.cell_maps:
        end = move(step, end, moved)
    predicted = float(moved.flatten(1).norm(dim=1).square().mean().sqrt() / x.norm())
    answers = model.unembed(end).argmax(-1)
    found = []
    for size in sizes:
        ends = flow.end(x + size * noise)
        changed = float((ends - end).flatten(1).norm(dim=1).square().mean().sqrt())
        found.append(
            Amplification(
                size,
                predicted,
                changed / (size * float(x.norm())),
                changed / float(end.norm()) / size,
                float((model.unembed(ends).argmax(-1) == answers).float().mean()),
            )
        )
    return found


def noise_on(x: Tensor, size: float, draws: int, seed: int = 0) -> Tensor:
    """Gaussian noise on the states x [1, tokens, width] of one sequence, each draw of norm ``size`` · ‖x‖:
    [draws, tokens, width]."""
    drawn = torch.randn(draws, *x.shape[1:], generator=torch.Generator().manual_seed(seed)).to(x)
    return size * x.norm() * drawn / drawn.flatten(1).norm(dim=1)[:, None, None]


@torch.no_grad()
def relative_growth(
    model: Odeformer, input_ids: Tensor, size: float, draws: int, depth: int | None = None, seed: int = 0
) -> Tensor:
    """:attr:`Amplification.relative` of each sequence of ``input_ids`` [batch, tokens] by itself: [batch]."""
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids)
    end = flow.end(x)
    norms, directions = x.flatten(1).norm(dim=1), noise_on(x[:1], 1.0, draws, seed) / x[:1].norm()
    squares = torch.zeros_like(norms)
    for direction in directions:  # the same for every sequence, so that they differ by themselves alone
        moved = flow.end(x + size * norms[:, None, None] * direction)
        squares += (moved - end).flatten(1).norm(dim=1).square()
    return (squares / draws).sqrt() / end.flatten(1).norm(dim=1) / size
