"""ODE solvers: how the state x moves over one cell, and the times at which the solver needs weights.

A solver declares its ``nodes``, fractions of a cell, and makes one ``step`` with the weights at those nodes.
An explicit Runge–Kutta solver is just a tableau: to add one, add its tableau to ``SOLVERS``. Solvers carry a
state from cell to cell: x alone for most, a pair for the reversible ones, which can also undo a step.
"""

from __future__ import annotations

from itertools import pairwise

from odeformer.depth import Grid
from odeformer.section import look_up
from odeformer.solvers.one_step import Cell, LieTrotter, OneStep, RungeKutta, Solver, State, add_scaled
from odeformer.solvers.reversible import KEPT, Coupled, FixedPoint, ReversibleSolver, TwoStep, seen_dtype

EULER = RungeKutta(nodes=(0.5,), at=(0,), a=((),), b=(1.0,))
MIDPOINT = RungeKutta(nodes=(0.0, 0.5), at=(0, 1), a=((), (0.5,)), b=(0.0, 1.0))
LEAPFROG = TwoStep(kept=1.0, node=0.0)
SOLVERS: dict[str, Solver] = {
    # First order in x, with the weights of the cell's midpoint.
    "euler": EULER,
    "midpoint": MIDPOINT,
    "heun": RungeKutta(nodes=(0.0, 1.0), at=(0, 1), a=((), (1.0,)), b=(0.5, 0.5)),
    "rk4": RungeKutta(
        nodes=(0.0, 0.5, 1.0),
        at=(0, 1, 1, 2),
        a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    "lie_trotter": LieTrotter(),
    "leapfrog": LEAPFROG,
    "fixed_point_leapfrog": FixedPoint(LEAPFROG),
    "damped_leapfrog": FixedPoint(TwoStep(kept=KEPT, node=0.5)),
    # For comparison, in no preset. Their backward solve is in floating point, so they must damp less.
    "reversible_euler": Coupled(EULER, kept=2.0**-4),
    "reversible_midpoint": Coupled(MIDPOINT, kept=2.0**-4),
}
MEMORY_SAVING = "damped_leapfrog"
"""The default solver of gradient ``reversible``: its backward solve is exact, it takes one evaluation per
cell, and a model trained with it can be run with Euler as if it had been trained with Euler
(docs/design.md)."""
LAYERS = ("euler", "lie_trotter")
"""Solvers whose step with h · D = 1 is an ordinary transformer layer."""


def solver_named(name: str) -> Solver:
    """The solver of that name, see :func:`odeformer.section.look_up`."""
    return look_up("solver", name, SOLVERS)


def layer_solver_name(name: str, default: str) -> str:
    """The solver ``name`` if its steps are ordinary layers, else the flavour's ``default``."""
    return name if name in LAYERS else default


def cells_of(grid: Grid, speed: float) -> list[Cell]:
    """The cells of a grid, in order, for a vector field with dx/dt = speed · field(x)."""
    scales = [_step_scale(right - left, speed) for left, right in pairwise(grid)]
    return [Cell(scale, before, scale / sum(scales)) for before, scale in pairwise([0.0, *scales])]


def _step_scale(h: float, speed: float) -> float:
    # h is a difference of edges with an error of 1e-16. Where h·D is an integer it is rounded to that, so
    # that a step with h·D = 1 is an ordinary layer bit for bit, in float64 too.
    scale = h * speed
    return float(round(scale)) if abs(scale - round(scale)) < 1e-9 else scale


def node_times(solver: Solver, grid: Grid) -> tuple[list[float], list[float]]:
    """The times at which a solve needs weights, cell by cell, and for each time the width of its cell."""
    cells = list(pairwise(grid))
    times = [left + node * (right - left) for left, right in cells for node in solver.nodes]
    widths = [right - left for left, right in cells for _ in solver.nodes]
    return times, widths


__all__ = [
    "LAYERS",
    "MEMORY_SAVING",
    "SOLVERS",
    "Cell",
    "Coupled",
    "FixedPoint",
    "LieTrotter",
    "OneStep",
    "ReversibleSolver",
    "RungeKutta",
    "Solver",
    "State",
    "add_scaled",
    "cells_of",
    "layer_solver_name",
    "node_times",
    "seen_dtype",
    "solver_named",
]
