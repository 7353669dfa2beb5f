"""The solver interface, and solvers whose state is x alone: Runge–Kutta methods and Lie–Trotter splitting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:  # the settings check solver names before torch is needed
    from torch import Tensor

    from odeformer.field.parts import BlockWeights, Field


State = tuple["Tensor", ...]
"""The tensors that a solver carries from cell to cell."""


class Cell(NamedTuple):
    """A cell of a solve."""

    scale: float
    """Width h of the cell times the field's speed; an Euler step of scale 1 is an ordinary layer."""
    before: float
    """The scale of the previous cell; 0 for the first cell."""
    share: float
    """The cell's fraction of the whole solve; the shares of all cells add up to 1."""


class Solver(Protocol):
    """A one-step method: moves a state over one cell, given the weights at the cell's ``nodes``."""

    @property
    def nodes(self) -> tuple[float, ...]:
        """Times at which weights are needed, as fractions of the cell."""
        ...

    @property
    def evaluations(self) -> int:
        """Number of vector field evaluations per cell."""
        ...

    def start(self, x: Tensor) -> State:
        """The initial state, from x [batch, tokens, width] at the start."""
        ...

    def step(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        """The state after the cell, given the block's weights at each of its nodes."""
        ...

    def end(self, state: State) -> Tensor:
        """The solution x of a state, in the solver's dtype."""
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
        """The solution x after a cell of width ``scale`` = h · speed."""


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """An explicit Runge–Kutta method, given by its Butcher tableau.

    Stage s evaluates the field at x + scale · Σ_j a[s][j] f_j with the weights at node ``nodes[at[s]]``; the
    step gives x + scale · Σ_j b[j] f_j.
    """

    nodes: tuple[float, ...]
    """Times at which weights are needed, as fractions of the cell."""
    at: tuple[int, ...]
    """The index of each stage's node."""
    a: tuple[tuple[float, ...], ...]
    """The coefficients, for each stage, of all earlier slopes."""
    b: tuple[float, ...]
    """The coefficients of all slopes in the step."""

    @property
    def evaluations(self) -> int:
        return len(self.b)

    def advance(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        slopes: list[Tensor] = []
        for node, row in zip(self.at, self.a, strict=True):
            slopes.append(field(add_scaled(x, scale, row, slopes), weights[node]))
        return add_scaled(x, scale, self.b, slopes)


def add_scaled(x: Tensor, scale: float | Tensor, row: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """The sum x + scale · Σ_j row[j] slopes[j]."""
    for factor, slope in zip(row, slopes, strict=True):
        if factor:
            # An ordinary layer is a plain sum: this saves one operation per decoded token.
            x = x + slope if scale * factor == 1.0 else x + scale * factor * slope
    return x


@dataclass(frozen=True)
class LieTrotter(OneStep):
    """Lie–Trotter splitting: an attention step, then a feed-forward step (sequential residual branches)."""

    nodes: tuple[float, ...] = (0.5,)
    evaluations: int = 1

    def advance(self, field: Field, x: Tensor, scale: float, weights: Sequence[BlockWeights]) -> Tensor:
        x = add_scaled(x, scale, (1.0,), (field.attention(x, weights[0]),))
        return add_scaled(x, scale, (1.0,), (field.feed_forward(x, weights[0]),))
