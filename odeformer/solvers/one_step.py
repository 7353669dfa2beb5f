"""What a solver is, and those whose state is x alone: explicit Runge–Kutta methods, and a splitting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # the settings check solver names before torch is needed
    from torch import Tensor

    from odeformer.field.parts import BlockWeights, Field


State = tuple["Tensor", ...]


class Cell(NamedTuple):
    """The widths h · speed of a cell and of the one before it: 1 where one Euler step is one layer."""

    scale: float
    before: float
    """0 before the first cell."""
    share: float
    """Of the whole solve that the cell is: all cells' add up to 1."""


class Solver(Protocol):
    """Moves a state over one cell, given the weights at its ``nodes``, fractions of the cell."""

    @property
    def nodes(self) -> tuple[float, ...]: ...
    @property
    def evaluations(self) -> int:
        """Of the field, in a cell."""
        ...

    def start(self, x: Tensor) -> State:
        """The state at t = 0."""
        ...

    def step(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        """The state after the cell."""
        ...

    def end(self, state: State) -> Tensor:
        """x from a state, in any precision."""
        ...


class OneStep(ABC):
    """A solver whose state is x alone."""

    def start(self, x: Tensor) -> State:
        return (x,)

    def step(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        return (self.advance(field, state[0], cell.scale, weights),)

    def end(self, state: State) -> Tensor:
        return state[0]

    @abstractmethod
    def advance(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        """x after a cell of width ``scale`` = h · speed."""


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """Explicit Runge–Kutta: stage s reads x + scale · Σ_j a[s][j] f_j with the weights of node ``at[s]``."""

    nodes: tuple[float, ...]
    at: tuple[int, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def evaluations(self) -> int:
        return len(self.b)

    def advance(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        slopes: list[Tensor] = []
        for node, row in zip(self.at, self.a, strict=True):
            slopes.append(field(add_scaled(x, scale, row, slopes), weights[node]))
        return add_scaled(x, scale, self.b, slopes)


def add_scaled(x: Tensor, scale: float | Tensor, row: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """x + scale · Σ_j row[j] slopes[j]."""
    for factor, slope in zip(row, slopes, strict=True):
        if factor:
            # A whole step of a layer is a plain sum: one operation less for each token that is decoded.
            x = x + slope if scale * factor == 1.0 else x + scale * factor * slope
    return x


@dataclass(frozen=True)
class LieTrotter(OneStep):
    """Splitting: an attention step, then a feed-forward step from where it ended (sequential residual)."""

    nodes: tuple[float, ...] = (0.5,)
    evaluations: int = 1

    def advance(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        x = add_scaled(x, scale, (1.0,), (field.attention(x, weights[0]),))
        return add_scaled(x, scale, (1.0,), (field.feed_forward(x, weights[0]),))
