"""Integration, and the gradient methods: how the backward pass gets the states of the solve.

``direct`` keeps everything every cell computed. ``checkpoint`` keeps only the state between cells and
computes each cell again in the backward pass: the same gradient, bit for bit, for a third more time.
``reversible`` keeps only the last state, and needs a solver that can undo its steps.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Protocol, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odeformer.config import GradientName
from odeformer.depth import Grid
from odeformer.field import BlockWeights, Field
from odeformer.reversible_gradient import Solve, reversible_solve
from odeformer.solvers import SOLVERS, Cell, ReversibleSolver, Solver, node_times

GRADIENTS = get_args(GradientName)


class WeightSource(Protocol):
    """A hypernetwork: times and cell widths [M] → the block's tensors [M, ...]."""

    def __call__(self, t: Tensor, h: Tensor) -> BlockWeights: ...


def node_weights(hypernetwork: WeightSource, grid: Grid, solver: Solver, like: Tensor) -> BlockWeights:
    """W at every time the solve needs it, in one call: each tensor [cells · nodes, ...]."""
    return hypernetwork(*_times_and_widths(grid, solver, like))


def _times_and_widths(grid: Grid, solver: Solver, like: Tensor) -> tuple[Tensor, Tensor]:
    times, widths = node_times(solver, grid)
    # t is never bf16, whose steps near 1 are wider than a cell of a deep solve.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    t = torch.tensor(times, dtype=dtype, device=like.device)
    return t, torch.tensor(widths, dtype=dtype, device=like.device)


def integrate(
    field: Field, hypernetwork: WeightSource, x0: Tensor, grid: Grid, *, solver: Solver, gradient: str
) -> Tensor:
    """Solve dx/dt = speed · field(x; W(t)) from t = 0 to 1.

    Args:
        field: the vector field; ``field.speed`` is D.
        hypernetwork: gives W(t); called once, by ``reversible`` a few times.
        x0: the state at t = 0, [batch, time, width].
        grid: the edges of the cells.
        solver: moves x over one cell.
        gradient: one of ``GRADIENTS``.

    Returns:
        The state at t = 1, shaped like ``x0``.

    Raises:
        ValueError: for an unknown gradient method, or ``reversible`` without a reversible solver or with
            weights that were generated beforehand.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} is unknown; there are: {', '.join(GRADIENTS)}")
    scales = [_step_scale(right - left, field.speed) for left, right in pairwise(grid)]
    cells = [Cell(scale, before) for scale, before in zip(scales, [0.0, *scales], strict=False)]
    if gradient == "reversible":
        if not isinstance(solver, ReversibleSolver):
            able = [name for name, other in SOLVERS.items() if isinstance(other, ReversibleSolver)]
            raise ValueError(f"gradient 'reversible' needs a solver that can be undone: {', '.join(able)}")
        if not isinstance(hypernetwork, nn.Module):
            raise ValueError("gradient 'reversible' generates W(t) itself: give no weights made beforehand")
        times, widths = _times_and_widths(grid, solver, like=x0)
        return reversible_solve(Solve(field, hypernetwork, solver, cells, times, widths), x0)
    weights = node_weights(hypernetwork, grid, solver, like=x0)
    # unbind, not indexing: its backward is one stack, where each index would fill a tensor of all cells.
    tensors = zip(*(stacked.unbind(0) for stacked in weights.values()), strict=True)
    blocks = [dict(zip(weights, block, strict=True)) for block in tensors]
    nodes = len(solver.nodes)
    if len(blocks) != nodes * len(cells):
        raise ValueError(
            f"weights at {len(blocks)} times were given; a depth of {len(cells)} needs {nodes} a cell"
        )
    state = solver.start(x0)
    for index, cell in enumerate(cells):
        arguments = (field, state, cell, blocks[index * nodes : (index + 1) * nodes])
        if gradient == "direct":
            state = solver.step(*arguments)
        else:
            state = checkpoint(solver.step, *arguments, use_reentrant=False)
    return solver.end(state).to(x0.dtype)


def _step_scale(h: float, speed: float) -> float:
    # h is a difference of edges, off by 1e-16: where h·D is a whole number it must be exactly that, so
    # that at h·D = 1 a step is an ordinary layer bit for bit, in float64 too.
    scale = h * speed
    return float(round(scale)) if abs(scale - round(scale)) < 1e-9 else scale
