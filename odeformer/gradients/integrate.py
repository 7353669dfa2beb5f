"""One call, four choices: how to solve the ODE, and how its backward pass gets the states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from odeformer.config import GradientName
from odeformer.depth import Grid
from odeformer.field import BlockWeights, Field
from odeformer.gradients.reversible import Solve, reversible_solve
from odeformer.hypernetwork import WeightSource
from odeformer.solvers import (
    ADAPTIVE_SOLVERS,
    Adaptive,
    Cell,
    ReversibleSolver,
    RungeKutta,
    Solver,
    State,
    Tolerance,
    cells_of,
    names_of,
    node_times,
)

GRADIENTS = get_args(GradientName)


class Solution(NamedTuple):
    """Of the ODE: the state at the end [batch, time, width], and what it took."""

    x: Tensor
    evaluations: tuple[int, ...]
    """Of the field, for each sequence."""


def time_tensors(times: Sequence[float], widths: Sequence[float], like: Tensor) -> tuple[Tensor, Tensor]:
    """Times and cell widths for a hypernetwork, on the device of ``like``."""
    # t is never bf16, whose steps near 1 are wider than a cell of a deep solve.
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    t = torch.tensor(times, dtype=dtype, device=like.device)
    return t, torch.tensor(widths, dtype=dtype, device=like.device)


def integrate(
    field: Field,
    hypernetwork: WeightSource,
    x0: Tensor,
    grid: Grid,
    *,
    solver: Solver | Adaptive,
    gradient: str,
    segment: int = 1,
    tolerance: Tolerance | None = None,
) -> Solution:
    """Solve dx/dt = speed · field(x; W(t)) from the grid's first edge to its last.

    Args:
        field: the vector field; ``field.speed`` is D.
        hypernetwork: gives W(t). It is called once; by ``reversible`` every few cells, by ``adjoint`` and
            adaptive solvers at every evaluation.
        x0: the state at the start, [batch, time, width].
        grid: the edges of the cells; of an adaptive solver's only the first and the last are heeded.
        solver: moves x over one cell.
        gradient: one of ``GRADIENTS``.
        segment: so many cells are computed again together by ``checkpoint``, which keeps one state for
            each segment.
        tolerance: what an adaptive solver chooses its cells by.

    Raises:
        ValueError: for an unknown gradient method, or one that does not go with the solver or with weights
            that were generated beforehand.
        FloatingPointError: without gradients, for a state that is not finite, naming the cell and its t
            where it first was not. (With gradients the guards of a training loop decide, which see the
            loss of all workers.)
        TooManyEvaluationsError: for an adaptive solve that would not end.
    """
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient {gradient!r} is unknown; there are: {', '.join(GRADIENTS)}")
    if len(grid) == 1:
        return Solution(x0, (0,) * len(x0))
    if isinstance(solver, Adaptive) and tolerance is not None:
        from odeformer.gradients.adaptive import adaptive_solve

        ends = (grid[0], grid[-1])
        return Solution(*adaptive_solve(field, hypernetwork, x0, ends, tolerance, solver, gradient))
    if isinstance(solver, Adaptive) or tolerance is not None:
        raise ValueError(
            "an adaptive solver takes a Tolerance in place of a depth"
            if isinstance(solver, Adaptive)
            else "a Tolerance in place of a depth needs an adaptive solver: " + ", ".join(ADAPTIVE_SOLVERS)
        )
    evaluations = (solver.evaluations * (len(grid) - 1),) * len(x0)
    if gradient == "adjoint":
        if not isinstance(solver, RungeKutta):
            raise ValueError(f"gradient 'adjoint' needs a Runge–Kutta solver: {names_of(RungeKutta)}")
        from odeformer.gradients.adjoint import adjoint_solve

        return Solution(adjoint_solve(field, _module(hypernetwork), x0, grid, solver), evaluations)
    cells = cells_of(grid, field.speed)
    if gradient == "reversible":
        if not isinstance(solver, ReversibleSolver):
            able = names_of(ReversibleSolver)
            raise ValueError(f"gradient 'reversible' needs a solver that can be undone: {able}")
        times, widths = time_tensors(*node_times(solver, grid), like=x0)
        solve = Solve(field, _module(hypernetwork), solver, cells, times, widths)
        return Solution(reversible_solve(solve, x0), evaluations)
    weights = hypernetwork(*time_tensors(*node_times(solver, grid), like=x0))
    # unbind, not indexing: its backward is one stack, where each index would fill a tensor of all cells.
    tensors = zip(*(stacked.unbind(0) for stacked in weights.values()), strict=True)
    blocks = [dict(zip(weights, block, strict=True)) for block in tensors]
    nodes = len(solver.nodes)
    if len(blocks) != nodes * len(cells):
        raise ValueError(
            f"weights at {len(blocks)} times were given; a depth of {len(cells)} needs {nodes} a cell"
        )
    of_cells = [blocks[index * nodes : (index + 1) * nodes] for index in range(len(cells))]

    def advance(state: State, part: slice) -> State:
        for cell, own in zip(cells[part], of_cells[part], strict=True):
            state = solver.step(field, state, cell, own)
        return state

    state = solver.start(x0)
    if gradient == "direct":
        state = advance(state, slice(None))
    else:
        for first in range(0, len(cells), segment):
            state = checkpoint(advance, state, slice(first, first + segment), use_reentrant=False)
    x = solver.end(state).to(x0.dtype)
    if not torch.is_grad_enabled() and not x.isfinite().all():
        _name_the_first_cell(field, solver, x0, grid, cells, of_cells)
    return Solution(x, evaluations)


def _module(hypernetwork: WeightSource) -> nn.Module:
    if not isinstance(hypernetwork, nn.Module):
        raise ValueError("this gradient makes W(t) itself: give no weights that were generated beforehand")
    return hypernetwork


def _name_the_first_cell(
    field: Field,
    solver: Solver,
    x0: Tensor,
    grid: Grid,
    cells: Sequence[Cell],
    of_cells: Sequence[Sequence[BlockWeights]],
) -> None:
    """Solve once more, cell by cell, and raise where the state is no longer finite."""
    if not x0.isfinite().all():
        raise FloatingPointError(
            f"the state is not finite: it was not at t = {grid[0]:.4g}, before the solve"
        )
    state = solver.start(x0)
    for index, (cell, own) in enumerate(zip(cells, of_cells, strict=True)):
        state = solver.step(field, state, cell, own)
        if not solver.end(state).to(x0.dtype).isfinite().all():
            raise FloatingPointError(
                f"the state is not finite: it first was not after the cell from t = {grid[index]:.4g} to "
                f"{grid[index + 1]:.4g}, number {index + 1} of {len(cells)}"
            )
