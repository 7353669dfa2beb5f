"""Reversible solvers, which can undo a step: they recover the state before a cell from the state after it.

Their state is a pair, and every step is a sequence of couplings (u, v) → (v, a·u + φ(v)). Whatever φ is, u
can be recovered from the result by one evaluation of φ at v, which is part of the result. All of them solve
the same ODE as Euler's method, so a model trained with one of them can afterwards be run with Euler, as an
ordinary transformer.

The pair is float64, while φ is evaluated in the dtype of the weights. Rounding errors of the backward solve
then vanish when v is rounded to that dtype: φ gets the same input as in the forward solve, even with bfloat16
matmuls.

To keep the two values of the pair close, a step damps the older one by a factor γ < 1. The backward solve
divides by γ, which amplifies rounding errors by 1/γ. A constant γ would have to be near 1 for many cells but
could be much smaller for few, so γ depends on the grid: for any N, the fraction ``KEPT`` = 2^−20 of the
older value is left after a whole solve. In floating point the backward solve can thus amplify an error by
2^20, which leaves 32 of float64's 52 bits; ``FixedPoint`` loses none.
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
"""The fraction of a pair's older value that is left after a whole solve."""

DENOMINATOR = 2**8
"""Denominator of the damping factors of fixed-point numbers."""


class Coupling(NamedTuple):
    """The invertible map (u, v) → (v, factor · u + update(v))."""

    factor: float
    update: Callable[[Tensor], Tensor]


def seen_dtype(weights: Sequence[BlockWeights]) -> dtype:
    """The dtype to which a coupling's input is rounded: that of the weights."""
    return next(iter(weights[0].values())).dtype


class ReversibleSolver(ABC):
    """A solver whose step is a sequence of couplings, which can be undone in reverse order.

    Its state is the pair (u, v), each [batch, tokens, width] float64, followed by any tensors that undoing
    needs. The solution x is v.
    """

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """Times at which weights are needed, as fractions of the cell."""

    @property
    @abstractmethod
    def evaluations(self) -> int:
        """Number of vector field evaluations per cell."""

    @abstractmethod
    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        """The couplings of a step over the cell, in order."""

    def start(self, x: Tensor) -> State:
        precise = x.double()
        return (precise, precise)

    def scale(self, factor: float, u: Tensor, kept: State) -> tuple[Tensor, State]:
        """The product factor · u, and the tensors from which :meth:`unscale` recovers u."""
        return factor * u, kept

    def unscale(self, factor: float, scaled: Tensor, kept: State) -> tuple[Tensor, State]:
        """The inverse of :meth:`scale`."""
        return scaled / factor, kept

    def step(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        (u, v), kept = state[:2], state[2:]
        for factor, update in self.couplings(field, cell, weights):
            scaled, kept = self.scale(factor, u, kept)
            u, v = v, scaled + update(v.to(seen_dtype(weights)))
        return (u, v, *kept)

    def reverse(self, field: Field, state: State, cell: Cell, weights: Sequence[BlockWeights]) -> State:
        """The state before the cell, from the state after it."""
        (u, v), kept = state[:2], state[2:]
        for factor, update in reversed(self.couplings(field, cell, weights)):
            before, kept = self.unscale(factor, v - update(u.to(seen_dtype(weights))), kept)
            u, v = before, u
        return (u, v, *kept)

    def end(self, state: State) -> Tensor:
        return state[1]


@dataclass(frozen=True)
class TwoStep(ReversibleSolver):
    """Two-step methods with one evaluation per cell; the state is (x_{n−1}, x_n).

    x_{n+1} = γ x_{n−1} + (1 − γ) x_n + (γ h_{n−1} + h_n) f(x_n), where γ = kept^share for the cell's share of
    the solve. With kept = 1 this is the leapfrog, which is unstable for contracting dynamics at any step
    size; with γ = 0 it would be Euler. In between it is stable while the contraction over a cell is below
    2 (1 − γ)/(1 + γ). On equal cells the leapfrog with weights at the left edges has second order, the others
    first. The family is that of BDIA (Zhang et al. 2024, arXiv 2407.09093).
    """

    kept: float
    """The fraction of the older value that is left after a whole solve."""
    node: float
    """The time at which weights are needed, as a fraction of the cell."""

    @property
    def nodes(self) -> tuple[float, ...]:
        return (self.node,)

    @property
    def evaluations(self) -> int:
        return 1

    def couplings(self, field: Field, cell: Cell, weights: Sequence[BlockWeights]) -> Sequence[Coupling]:
        # Rounded to n / 2^8 with n ≥ 1, a factor by which fixed-point numbers can be scaled reversibly.
        factor = max(1, round(self.kept**cell.share * DENOMINATOR)) / DENOMINATOR

        def update(now: Tensor) -> Tensor:
            slope = (factor * cell.before + cell.scale) * field(now, weights[0])
            return (1 - factor) * now + slope if factor < 1 else slope

        return (Coupling(factor, update),)


@dataclass(frozen=True)
class Coupled(ReversibleSolver):
    """A Runge–Kutta method made reversible by coupling two solutions (McCallum & Foster, arXiv 2410.11648).

    y' = λ y + (1 − λ) z + Ψ_h(z) and z' = z − Ψ_{−h}(y'), where Ψ is the base method's increment over the
    cell and λ = kept^share for the cell's share of the solve; z is the solution x. It has the order of the
    base method, costs two of its steps per cell, and is stable for contractions over a cell below 1 − λ.
    """

    base: RungeKutta
    kept: float
    """The fraction of the older value that is left after a whole solve."""

    @property
    def evaluations(self) -> int:
        return 2 * self.base.evaluations

    @property
    def nodes(self) -> tuple[float, ...]:
        """The nodes of the base method's steps forward and backward over the cell."""
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
    """A reversible solver in fixed-point arithmetic, which recovers every bit of every state.

    Numbers are multiples of 2^−32, which float64 holds exactly up to a magnitude of 2^20. The update of a
    step is rounded to such a multiple, so that subtracting it undoes adding it exactly. Damping factors are
    fractions n/2^8. Gradients ignore the rounding (straight-through estimator).
    """

    base: ReversibleSolver
    """The solver whose couplings are computed in fixed point."""
    bits: int = 32
    """Number of fractional bits."""

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

    # Division by 2^8 leaves a remainder, which is pushed onto an integer buffer kept for each number. The
    # product with n has room for a digit in base n, which is popped off the buffer. The buffer grows by a
    # factor of 2^8/n per step, that is, by 20 bits over a solve of any N. ``unscale`` reverses both
    # (Maclaurin et al. 2015, arXiv 1502.03492).
    def scale(self, factor: float, u: Tensor, kept: State) -> tuple[Tensor, State]:
        if factor == 1:
            return u, kept
        exact, buffer = self._fraction(u, kept[0], int(factor * DENOMINATOR), DENOMINATOR)
        scaled = factor * u
        return scaled + (exact - scaled).detach(), (buffer,)

    def unscale(self, factor: float, scaled: Tensor, kept: State) -> tuple[Tensor, State]:
        if factor == 1:
            return scaled, kept
        exact, buffer = self._fraction(scaled, kept[0], DENOMINATOR, int(factor * DENOMINATOR))
        return exact, (buffer,)

    def _fraction(self, x: Tensor, buffer: Tensor, over: int, under: int) -> tuple[Tensor, Tensor]:
        """The fraction x · over / under; what the division leaves is exchanged with the buffer."""
        whole = self._as_integer(x)
        buffer = buffer * under + whole % under
        whole = whole // under * over + buffer % over
        return self._as_float(whole), buffer // over

    # Not an exception: to look at a number would make the CPU wait for the device in every solve.
    def end(self, state: State) -> Tensor:
        """The solution x; NaN where it exceeds 2^20, the limit of these numbers."""
        x = state[1]
        return x.where(x.detach().abs() < 2 ** (52 - self.bits), float("nan"))

    def _rounding(self, update: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda v: self._rounded(update(v).double())

    def _rounded(self, x: Tensor) -> Tensor:
        multiple = (x * 2**self.bits).round() / 2**self.bits
        return x + (multiple - x).detach()

    def _as_integer(self, x: Tensor) -> Tensor:
        return (x.detach() * 2**self.bits).long()

    def _as_float(self, whole: Tensor) -> Tensor:
        return whole.double() / 2**self.bits
