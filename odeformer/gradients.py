"""Integration, and the gradient methods: how the backward pass gets the states of the solve.

``direct`` keeps everything every cell computed. ``checkpoint`` keeps only the state between cells and
computes each cell again in the backward pass: the same gradient, bit for bit, for a third more time.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from odeformer.config import GradientName
from odeformer.depth import Grid
from odeformer.field import BlockWeights, Field
from odeformer.solvers import Solver, node_times

GRADIENTS = get_args(GradientName)


class WeightSource(Protocol):
    """A hypernetwork: times and cell widths [M] → the block's tensors [M, ...]."""

    def __call__(self, t: Tensor, h: Tensor) -> BlockWeights: ...


def node_weights(hypernetwork: WeightSource, grid: Grid, solver: Solver, like: Tensor) -> BlockWeights:
    """W at every time the solve needs it, in one call: each tensor [cells · nodes, ...]."""
    times, widths = node_times(solver, grid)
    # t is never bf16, whose steps near 1 are wider than a cell of a deep solve.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    t = torch.tensor(times, dtype=dtype, device=like.device)
    return hypernetwork(t, torch.tensor(widths, dtype=dtype, device=like.device))


def integrate(
    field: Field, hypernetwork: WeightSource, x0: Tensor, grid: Grid, *, solver: Solver, gradient: str
) -> Tensor:
    """Solve dx/dt = speed · field(x; W(t)) from t = 0 to 1.

    Args:
        field: the vector field; ``field.speed`` is D.
        hypernetwork: gives W(t); called once.
        x0: the state at t = 0, [batch, time, width].
        grid: the edges of the cells.
        solver: moves x over one cell.
        gradient: one of ``GRADIENTS``.

    Returns:
        The state at t = 1, shaped like ``x0``.

    Raises:
        ValueError: for an unknown gradient method.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} is unknown; there are: {', '.join(GRADIENTS)}")
    weights = node_weights(hypernetwork, grid, solver, like=x0)
    # unbind, not indexing: its backward is one stack, where each index would fill a tensor of all cells.
    tensors = zip(*(stacked.unbind(0) for stacked in weights.values()), strict=True)
    blocks = [dict(zip(weights, block, strict=True)) for block in tensors]
    nodes = len(solver.nodes)
    if len(blocks) != nodes * (len(grid) - 1):
        raise ValueError(
            f"weights at {len(blocks)} times were given; a depth of {len(grid) - 1} needs {nodes} a cell"
        )
    x = x0
    for cell, (left, right) in enumerate(pairwise(grid)):
        arguments = (
            field,
            x,
            _step_scale(right - left, field.speed),
            blocks[cell * nodes : (cell + 1) * nodes],
        )
        if gradient == "direct":
            x = solver.step(*arguments)
        else:
            x = checkpoint(solver.step, *arguments, use_reentrant=False)
    return x


def _step_scale(h: float, speed: float) -> float:
    # h is a difference of edges, off by 1e-16: where h·D is a whole number it must be exactly that, so
    # that at h·D = 1 a step is an ordinary layer bit for bit, in float64 too.
    scale = h * speed
    return float(round(scale)) if abs(scale - round(scale)) < 1e-9 else scale
