"""Amplification of noise on the embeddings: predicted by derivatives, and measured."""

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
    """Effect of noise of one size on the embeddings of one sequence, averaged over draws."""

    size: float
    """‖noise‖ / ‖embeddings‖."""
    predicted: float
    """‖change of x(1)‖ / ‖noise‖ by the derivative: √(mean of e^(2λ)) over all exponents λ of the flow."""
    measured: float
    """‖change of x(1)‖ / ‖noise‖ of the states themselves."""
    relative: float
    """‖change of x(1)‖ / ‖x(1)‖ / ``size``, measured."""
    same_answer: float
    """Fraction of positions whose most likely next token does not change."""


@torch.no_grad()
def amplification(
    model: Odeformer, input_ids: Tensor, sizes: Sequence[float], depth: int | None = None
) -> list[Amplification]:
    """Amplification of Gaussian noise of each size on ``input_ids`` [1, tokens], with the same draws.

    Args:
        sizes: ‖noise‖ / ‖embeddings‖.
    """
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids)
    noise = noise_on(x, 1.0, DRAWS)

    tangents, end = noise[:, None].clone(), x
    for step in flow.cell_maps:
        end = move(step, end, tangents)
    predicted = float(_root_mean_square(tangents) / x.norm())

    answers = model.unembed(end).argmax(-1)
    rows = []
    for size in sizes:
        noisy = flow.end(x + size * noise)
        change = float(_root_mean_square(noisy - end))
        measured, relative = change / (size * float(x.norm())), change / float(end.norm()) / size
        same_answer = float((model.unembed(noisy).argmax(-1) == answers).float().mean())
        rows.append(Amplification(size, predicted, measured, relative, same_answer))
    return rows


def _root_mean_square(draws: Tensor) -> Tensor:
    return draws.flatten(1).norm(dim=1).square().mean().sqrt()


def noise_on(x: Tensor, size: float, draws: int) -> Tensor:
    """Gaussian noise for the states x of one sequence: [1, tokens, width] → [draws, tokens, width].

    Each draw has the norm ``size`` · ‖x‖.
    """
    drawn = torch.randn(draws, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    return size * x.norm() * drawn / drawn.flatten(1).norm(dim=1)[:, None, None]


@torch.no_grad()
def relative_growth(
    model: Odeformer, input_ids: Tensor, size: float, draws: int, depth: int | None = None
) -> Tensor:
    """:attr:`Amplification.relative` of each sequence of ``input_ids`` [batch, tokens]: [batch]."""
    flow = flow_of(model, input_ids.shape[1], depth)
    x = model.embed(input_ids)
    end = flow.end(x)
    norms = x.flatten(1).norm(dim=1)
    directions = noise_on(x[:1], 1.0, draws) / x[:1].norm()

    squares = torch.zeros_like(norms)
    for direction in directions:  # the same directions for all sequences, so that they stay comparable
        noisy = flow.end(x + size * norms[:, None, None] * direction)
        squares += (noisy - end).flatten(1).norm(dim=1).square()
    return (squares / draws).sqrt() / end.flatten(1).norm(dim=1) / size
