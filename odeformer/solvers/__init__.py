"""ODE solvers, which move the state x over one cell at a time.

A solver declares its ``nodes``, the times at which it needs weights as fractions of a cell, and makes one
``step`` per cell. It carries a state from cell to cell: x alone for most solvers, a pair of tensors for the
reversible ones, which can also undo a step. To add an explicit Runge–Kutta method, add its tableau to
``SOLVERS``.
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
    # Of first order; it uses the weights at the cell's midpoint.
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
    # For comparison only. Their backward solve is in floating point, so they must damp less.
    "reversible_euler": Coupled(EULER, kept=2.0**-4),
    "reversible_midpoint": Coupled(MIDPOINT, kept=2.0**-4),
}
MEMORY_SAVING = "damped_leapfrog"
"""The default solver of gradient ``reversible``: its backward solve is exact, it needs one evaluation per
cell, and a model trained with it runs with Euler as well as one trained with Euler (docs/design.md)."""
LAYERS = ("euler", "lie_trotter")
"""Solvers whose step with h · D = 1 is an ordinary transformer layer."""


def solver_named(name: str) -> Solver:
    """The solver of that name, see :func:`odeformer.section.look_up`."""
    return look_up("solver", name, SOLVERS)


def layer_solver_name(name: str, default: str) -> str:
    """``name`` if the steps of that solver are ordinary layers, else the flavour's ``default``."""
    return name if name in LAYERS else default


def cells_of(grid: Grid, speed: float) -> list[Cell]:
    """The cells of a grid, in order, for a vector field with dx/dt = speed · field(x)."""
    scales = [_step_scale(right - left, speed) for left, right in pairwise(grid)]
    return [Cell(scale, before, scale / sum(scales)) for before, scale in pairwise([0.0, *scales])]


def _step_scale(h: float, speed: float) -> float:
    # h is a difference of edges, with an error of 1e-16. Rounding h·D to an integer this close makes a step
    # with h·D = 1 equal an ordinary layer bit for bit, also in float64.
    scale = h * speed
    return float(round(scale)) if abs(scale - round(scale)) < 1e-9 else scale


def node_times(solver: Solver, grid: Grid) -> tuple[list[float], list[float]]:
    """The times t at which a solve needs weights, cell by cell, and the width h of each time's cell."""
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
