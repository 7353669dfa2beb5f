"""Solvers: how x moves over one cell, and at which times it needs weights.

A solver names its ``nodes``, fractions of a cell, and makes one ``step`` from the weights at those
nodes. The explicit Runge–Kutta ones are only a tableau: to add one, add three lines to ``SOLVERS``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from odeformer.depth import Grid

if TYPE_CHECKING:  # the settings check solver names before torch is needed
    from torch import Tensor

    from odeformer.field.parts import BlockWeights, Field


class Solver(Protocol):
    """One step over a cell, given the weights at the solver's nodes."""

    @property
    def nodes(self) -> tuple[float, ...]: ...
    def step(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        """x after the cell. ``scale`` is h · speed: 1 where one Euler step is one ordinary layer."""
        ...


@dataclass(frozen=True)
class RungeKutta:
    """Explicit Runge–Kutta: stage s reads x + scale · Σ_j a[s][j] f_j with the weights of node ``at[s]``."""

    nodes: tuple[float, ...]
    at: tuple[int, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    def step(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        slopes: list[Tensor] = []
        for node, row in zip(self.at, self.a, strict=True):
            slopes.append(field(_advance(x, scale, row, slopes), weights[node]))
        return _advance(x, scale, self.b, slopes)


def _advance(x: Tensor, scale: float, row: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    for factor, slope in zip(row, slopes, strict=True):
        if factor:
            x = x + scale * factor * slope
    return x


@dataclass(frozen=True)
class LieTrotter:
    """Splitting: an attention step, then a feed-forward step from where it ended (sequential residual)."""

    nodes: tuple[float, ...] = (0.5,)

    def step(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        x = _advance(x, scale, (1.0,), (field.attention(x, weights[0]),))
        return _advance(x, scale, (1.0,), (field.feed_forward(x, weights[0]),))


SOLVERS: dict[str, Solver] = {
    # First order in x; its weights are those of the cell's midpoint.
    "euler": RungeKutta(nodes=(0.5,), at=(0,), a=((),), b=(1.0,)),
    "midpoint": RungeKutta(nodes=(0.0, 0.5), at=(0, 1), a=((), (0.5,)), b=(0.0, 1.0)),
    "heun": RungeKutta(nodes=(0.0, 1.0), at=(0, 1), a=((), (1.0,)), b=(0.5, 0.5)),
    "rk4": RungeKutta(
        nodes=(0.0, 0.5, 1.0),
        at=(0, 1, 1, 2),
        a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        b=(1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
    "lie_trotter": LieTrotter(),
}


def solver_named(name: str) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: naming the solvers there are.
    """
    if name not in SOLVERS:
        raise ValueError(f"solver {name!r} is unknown; there are: {', '.join(SOLVERS)}")
    return SOLVERS[name]


def node_times(solver: Solver, grid: Grid) -> tuple[list[float], list[float]]:
    """The times at which a solve needs weights, cell by cell, and the width of the cell of each."""
    cells = list(pairwise(grid))
    times = [left + node * (right - left) for left, right in cells for node in solver.nodes]
    widths = [right - left for left, right in cells for _ in solver.nodes]
    return times, widths
