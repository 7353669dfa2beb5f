"""Solvers: how x moves over one cell, and at which times it needs weights.

A solver names its ``nodes``, fractions of a cell, and makes one ``step`` from the weights at those
nodes. The explicit Runge–Kutta ones are only a tableau: to add one, add three lines to ``SOLVERS``.
What a solver carries from cell to cell is its state: x alone for most, a pair for the reversible ones,
which can also undo a step.
"""

from __future__ import annotations

from itertools import pairwise

from odeformer.depth import Grid
from odeformer.solvers.one_step import Cell, LieTrotter, OneStep, RungeKutta, Solver, State, add_scaled
from odeformer.solvers.reversible import KEPT, Coupled, FixedPoint, ReversibleSolver, TwoStep, seen_dtype

EULER = RungeKutta(nodes=(0.5,), at=(0,), a=((),), b=(1.0,))
MIDPOINT = RungeKutta(nodes=(0.0, 0.5), at=(0, 1), a=((), (0.5,)), b=(0.0, 1.0))
LEAPFROG = TwoStep(kept=1.0, node=0.0)
SOLVERS: dict[str, Solver] = {
    # First order in x; its weights are those of the cell's midpoint.
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
    # In floating point, where what is forgotten is at stake: they forget less.
    "reversible_euler": Coupled(EULER, kept=2.0**-4),
    "reversible_midpoint": Coupled(MIDPOINT, kept=2.0**-4),
}
MEMORY_SAVING = "damped_leapfrog"
"""The solver that gradient ``reversible`` has where none is chosen: exact, one evaluation a cell, and what is
trained with it runs by Euler as if it had been trained by Euler (docs/design.md)."""
LAYERS = ("euler", "lie_trotter")
"""One of their steps, h · D = 1, is an ordinary transformer layer."""


def solver_named(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: naming the solvers there are.
    """
    if name not in SOLVERS:
        raise ValueError(f"solver {name!r} is unknown; there are: {', '.join(SOLVERS)}")
    return SOLVERS[name]


def layer_solver_name(name: str, default: str) -> str:
    """The solver whose steps are ordinary layers: this one, or the flavour's ``default``."""
    return name if name in LAYERS else default


def cells_of(grid: Grid, speed: float) -> list[Cell]:
    """The cells of a solve over this grid, in order."""
    scales = [_step_scale(right - left, speed) for left, right in pairwise(grid)]
    return [Cell(scale, before, scale / sum(scales)) for before, scale in pairwise([0.0, *scales])]


def _step_scale(h: float, speed: float) -> float:
    # h is a difference of edges, off by 1e-16: where h·D is a whole number it must be exactly that, so
    # that at h·D = 1 a step is an ordinary layer bit for bit, in float64 too.
    scale = h * speed
    return float(round(scale)) if abs(scale - round(scale)) < 1e-9 else scale


def node_times(solver: Solver, grid: Grid) -> tuple[list[float], list[float]]:
    """The times at which a solve needs weights, cell by cell, and the width of the cell of each."""
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
