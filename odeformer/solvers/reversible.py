"""Solvers that can undo a step exactly, up to rounding: from the state after a cell the one before it.

Their state is a pair, and every one of them is made of couplings (u, v) → (v, a·u + φ(v)): whatever φ is,
u can be had back from the result by one evaluation of φ at v, which is still there. All solve the same
ODE as Euler does, so that a model trained with one of them is evaluated by Euler afterwards, as an
ordinary transformer.

The pair is held in float64 while φ is evaluated in the precision of the weights. What rounding the way
back adds is then far below what φ can see: it gets the numbers it got on the way forth, also where its
products are in bf16.

What keeps such a pair together is forgetting: a part γ < 1 of the older value is kept in each cell, and the
way back divides by it, which multiplies rounding by 1/γ. A fixed γ would have to be near 1 for many cells
and could be far smaller for few. So γ follows from the grid: over a whole solve the pair keeps ``KEPT`` of
what it was, whatever N is, and 20 of float64's 52 bits are at stake on the way back. In floating point one
value that is rounded otherwise there can grow by as much; ``FixedPoint`` loses none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from odeformer.solvers.one_step import Cell, RungeKutta, State

if TYPE_CHECKING:
    from torch import Tensor, dtype

    from odeformer.field.parts import BlockWeights, Field


KEPT = 2.0**-20
"""Of the older value of a pair, over a whole solve."""


DENOMINATOR = 2**8
"""Of the factors that fixed-point numbers are scaled by."""


class Coupling(NamedTuple):
    """(u, v) → (v, factor · u + update(v))."""

    factor: float
    update: Callable[[Tensor], Tensor]


def seen_dtype(weights: Sequence[BlockWeights]) -> dtype:
    """The precision in which a coupling's update sees the state: that of the weights."""
    return next(iter(weights[0].values())).dtype


class ReversibleSolver(ABC):
    """A solver whose steps are couplings.

    Its state is the pair (u, v), each [batch, tokens, width] float64, of which v is x; and after it whatever
    scaling u needs to be undone.
    """

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """Times in a cell at which weights are needed, as fractions of it."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Of the field, in a cell."""

    @abstractmethod
    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        """What a step over the cell is made of, in order."""

    def start(self, x: Tensor) -> State:
        precise = x.double()
        return (precise, precise)

    def scale(self, factor: float, u: Tensor, kept: State) -> tuple[Tensor, State]:
        """factor · u, and what it takes to get u back from that."""
        return factor * u, kept

    def unscale(self, factor: float, scaled: Tensor, kept: State) -> tuple[Tensor, State]:
        """What :meth:`scale` was given, from what it gave."""
        return scaled / factor, kept

    def step(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        (u, v), kept = state[:2], state[2:]
        for factor, update in self.couplings(field, cell, weights):
            scaled, kept = self.scale(factor, u, kept)
            u, v = v, scaled + update(v.to(seen_dtype(weights)))
        return (u, v, *kept)

    def reverse(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        """The state before the cell, from the one after it."""
        (u, v), kept = state[:2], state[2:]
        for factor, update in reversed(self.couplings(field, cell, weights)):
            before, kept = self.unscale(factor, v - update(u.to(seen_dtype(weights))), kept)
            u, v = before, u
        return (u, v, *kept)

    def end(self, state: State) -> Tensor:
        return state[1]


@dataclass(frozen=True)
class TwoStep(ReversibleSolver):
    """Two-step methods with one evaluation a cell; the state is (x one cell ago, x now).

    x_{n+1} = γ x_{n−1} + (1 − γ) x_n + (γ h_{n−1} + h_n) f(x_n), with γ = ``kept`` to the power of the
    cell's share. At kept = 1 it is the leapfrog, which no step size makes stable where the dynamics
    contract; at 0 it would be Euler. In between it is stable while the contraction over a cell is below
    2 (1 − γ)/(1 + γ). On equal cells the leapfrog with weights at their left edges has second order, the
    others first. The family is that of BDIA (Zhang et al. 2024, arXiv 2407.09093).
    """

    kept: float
    node: float

    @property
    def nodes(self) -> tuple[float, ...]:
        return (self.node,)

    @property
    def evaluations(self) -> int:
        return 1

    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        # The nearest n / 2^8 above 0: what fixed-point numbers can be scaled by and back.
        factor = max(1, round(self.kept**cell.share * DENOMINATOR)) / DENOMINATOR

        def update(now: Tensor) -> Tensor:
            slope = (factor * cell.before + cell.scale) * field(now, weights[0])
            return (1 - factor) * now + slope if factor < 1 else slope

        return (Coupling(factor, update),)


@dataclass(frozen=True)
class Coupled(ReversibleSolver):
    """Any Runge–Kutta method made reversible by coupling two solutions (McCallum & Foster, 2410.11648).

    y' = λ y + (1 − λ) z + Ψ_h(z) and z' = z − Ψ_{−h}(y'), where Ψ is the base's increment over the cell
    and λ = ``kept`` to the power of the cell's share; z is x. It has the base's order for two of its steps
    a cell, and is stable while the contraction over a cell is below 1 − λ.
    """

    base: RungeKutta
    kept: float

    @property
    def evaluations(self) -> int:
        return 2 * self.base.evaluations

    @property
    def nodes(self) -> tuple[float, ...]:
        """The base's, and those it passes when it goes back over the cell."""
        forth = self.base.nodes
        back = tuple(1 - node for node in forth)
        return forth if back == forth else forth + back

    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        count = len(self.base.nodes)
        forth, back = weights[:count], weights[-count:]
        factor = self.kept**cell.share

        def to_y(z: Tensor) -> Tensor:
            return self.base.advance(field, z, cell.scale, forth) - factor * z

        def to_z(y: Tensor) -> Tensor:
            return y - self.base.advance(field, y, -cell.scale, back)

        return Coupling(factor, to_y), Coupling(1.0, to_z)


@dataclass(frozen=True)
class FixedPoint(ReversibleSolver):
    """A reversible solver on whole multiples of 2^−32: every bit of every state comes back, whatever the
    field does.

    What a step adds is rounded to such a multiple, so that it can be taken away again; float64 holds them
    exactly up to 2^20 in size. A factor γ becomes a fraction n/2^8, and the division's remainders are kept:
    the bits that the pair forgets, pushed into one integer beside each number, from where they return on
    the way back. All cells of a solve together push 20 bits (``KEPT``), however many they are. (The
    remainders as a buffer: Maclaurin et al. 2015, arXiv 1502.03492.) Gradients pass the rounding straight
    through.
    """

    base: ReversibleSolver
    bits: int = 32

    @property
    def nodes(self) -> tuple[float, ...]:
        return self.base.nodes

    @property
    def evaluations(self) -> int:
        return self.base.evaluations

    def start(self, x: Tensor) -> State:
        rounded = self._rounded(x.double())
        return (rounded, rounded, rounded.detach().long().zero_())

    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        couplings = self.base.couplings(field, cell, weights)
        return [Coupling(factor, self._rounding(update)) for factor, update in couplings]

    def scale(self, factor: float, u: Tensor, kept: State) -> tuple[Tensor, State]:
        if factor == 1:
            return u, kept
        numerator = int(factor * DENOMINATOR)
        whole, buffer = self._as_integer(u), kept[0]
        buffer = buffer * DENOMINATOR + whole % DENOMINATOR
        whole = whole // DENOMINATOR * numerator + buffer % numerator
        scaled = factor * u
        return scaled + (self._as_float(whole) - scaled).detach(), (buffer // numerator,)

    def unscale(self, factor: float, scaled: Tensor, kept: State) -> tuple[Tensor, State]:
        if factor == 1:
            return scaled, kept
        numerator = int(factor * DENOMINATOR)
        whole, buffer = self._as_integer(scaled), kept[0]
        buffer = buffer * numerator + whole % numerator
        whole = whole // numerator * DENOMINATOR + buffer % DENOMINATOR
        return self._as_float(whole), (buffer // DENOMINATOR,)

    def end(self, state: State) -> Tensor:
        x = state[1]
        if not x.detach().abs().max() < 2 ** (52 - self.bits):
            raise OverflowError(
                f"a fixed-point state with {self.bits} bits holds numbers up to 2^{52 - self.bits}"
            )
        return x

    def _rounding(self, update: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda v: self._rounded(update(v).double())

    def _rounded(self, x: Tensor) -> Tensor:
        multiple = (x * 2**self.bits).round() / 2**self.bits
        return x + (multiple - x).detach()

    def _as_integer(self, x: Tensor) -> Tensor:
        return (x.detach() * 2**self.bits).long()

    def _as_float(self, whole: Tensor) -> Tensor:
        return whole.double() / 2**self.bits
