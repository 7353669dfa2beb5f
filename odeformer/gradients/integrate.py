"""Solve the ODE along depth by a solver, with a gradient method for the backward pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from odeformer.depth import Grid
from odeformer.field.parts import Field
from odeformer.gradients import gradient_named
from odeformer.gradients.method import Problem
from odeformer.hypernetwork import FixedWeights, WeightSource
from odeformer.solvers import Solver


class Solution(NamedTuple):
    """The end of a solve, and what it took."""

    x: Tensor
    """The state at the end, [batch, tokens, width]."""
    evaluations: tuple[int, ...]
    """Evaluations of the field, for each sequence."""


def integrate(
    field: Field,
    source: WeightSource,
    x0: Tensor,
    grid: Grid,
    *,
    solver: Solver,
    gradient: str,
    segment: int = 1,
) -> Solution:
    """Solve dx/dt = speed · field(x; W(t)) from the grid's first edge to its last.

    Args:
        field: the vector field; ``field.speed`` is D.
        source: gives W(t). It is called once; by ``reversible`` every few cells, by ``adjoint`` at every
            evaluation.
        x0: the state at the start, [batch, tokens, width].
        grid: the edges of the cells.
        solver: moves x over one cell.
        gradient: one of ``GRADIENTS``.
        segment: the number of cells that ``checkpoint`` computes again together, for which it keeps one
            state.

    Raises:
        ValueError: for an unknown gradient method, or one that does not go with the solver or with weights
            that were generated beforehand.
        FloatingPointError: without gradients, for a state that is not finite, naming the cell and its t
            where it first was not. (With gradients the guards of a training loop decide, which see the
            loss of all workers.)
    """
    method = gradient_named(gradient)
    if len(grid) == 1:
        return Solution(x0, (0,) * len(x0))
    if not method.goes_with(solver):
        raise ValueError(f"gradient {gradient!r} needs {method.able_solvers()}")
    if method.regenerates_weights and isinstance(source, FixedWeights):
        raise ValueError(f"gradient {gradient!r} makes W(t) itself: give no weights made beforehand")
    problem = Problem(field, source, x0, grid, solver, segment)
    x = method.solve(problem).to(x0.dtype)
    if not torch.is_grad_enabled() and not x.isfinite().all():
        _name_the_first_cell(problem)
    return Solution(x, (solver.evaluations * (len(grid) - 1),) * len(x0))


def _name_the_first_cell(problem: Problem) -> None:
    """Solve once more, cell by cell, and raise where the state is no longer finite."""
    x0, grid, solver = problem.x0, problem.grid, problem.solver
    if not x0.isfinite().all():
        raise FloatingPointError(
            f"the state is not finite: it was not at t = {grid[0]:.4g}, before the solve"
        )
    state = solver.start(x0)
    for index, (cell, weights) in enumerate(zip(problem.cells, problem.weights_by_cell(), strict=True)):
        state = solver.step(problem.field, state, cell, weights)
        if not solver.end(state).to(x0.dtype).isfinite().all():
            raise FloatingPointError(
                f"the state is not finite: it first was not after the cell from t = {grid[index]:.4g} to "
                f"{grid[index + 1]:.4g}, number {index + 1} of {len(grid) - 1}"
            )
