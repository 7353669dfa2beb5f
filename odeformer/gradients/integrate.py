"""Solving the ODE along depth with a given solver and gradient method."""

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
    """The result of a solve."""

    x: Tensor
    """The state at the end, [batch, tokens, width]."""
    evaluations: int
    """Number of vector field evaluations."""


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
        source: the source of W(t), called once per solve; with ``reversible`` every few cells, with
            ``adjoint`` at every evaluation.
        x0: the state at the start, [batch, tokens, width].
        grid: the edges of the cells.
        solver: the solver that moves x over one cell.
        gradient: a key of ``GRADIENTS``.
        segment: with ``checkpoint``, the number of cells between two saved states.

    Raises:
        ValueError: for an unknown gradient method, or one that cannot be used with the solver or with
            precomputed weights.
        FloatingPointError: if the state is not finite, naming the first such cell. Checked only while
            gradients are off; in training, the loop checks the loss instead.
    """
    method = gradient_named(gradient)
    if len(grid) == 1:
        return Solution(x0, 0)
    if not method.goes_with(solver):
        raise ValueError(f"gradient {gradient!r} needs {method.able_solvers()}")
    if method.regenerates_weights and isinstance(source, FixedWeights):
        raise ValueError(f"gradient {gradient!r} generates W(t) itself: give no precomputed weights")
    problem = Problem(field, source, x0, grid, solver, segment)
    x = method.solve(problem).to(x0.dtype)
    if not torch.is_grad_enabled() and not x.isfinite().all():
        _raise_at_first_cell(problem)
    return Solution(x, solver.evaluations * (len(grid) - 1))


def _raise_at_first_cell(problem: Problem) -> None:
    """Solve once more, cell by cell, and raise at the first cell after which the state is not finite."""
    x0, grid, solver = problem.x0, problem.grid, problem.solver
    if not x0.isfinite().all():
        raise FloatingPointError(f"the state is not finite at t = {grid[0]:.4g}, before the solve")
    state = solver.start(x0)
    for index, (cell, weights) in enumerate(zip(problem.cells, problem.weights_by_cell(), strict=True)):
        state = solver.step(problem.field, state, cell, weights)
        if not solver.end(state).to(x0.dtype).isfinite().all():
            raise FloatingPointError(
                f"the state is not finite after cell {index + 1} of {len(grid) - 1}, from "
                f"t = {grid[index]:.4g} to {grid[index + 1]:.4g}"
            )
