"""The interface of gradient methods, and the problem that they solve."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from odeformer.solvers import SOLVERS, Solver, cells_of, node_times

if TYPE_CHECKING:
    from torch import Tensor

    from odeformer.depth import Grid
    from odeformer.field.parts import BlockWeights, Field
    from odeformer.hypernetwork import WeightSource
    from odeformer.solvers import Cell


@dataclass(frozen=True)
class Problem:
    """An initial value problem: dx/dt = speed · field(x; W(t)) from the grid's first edge to its last."""

    field: Field
    source: WeightSource
    """The source of W(t)."""
    x0: Tensor
    """The state at the start, [batch, tokens, width]."""
    grid: Grid
    """The edges of the cells."""
    solver: Solver
    segment: int
    """Number of cells between two saved states, for ``checkpoint`` only."""

    @property
    def cells(self) -> list[Cell]:
        return cells_of(self.grid, self.field.speed)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """The times t at which the solver needs weights, and their cell widths h, each [M]."""
        from odeformer.hypernetwork import time_tensors

        return time_tensors(*node_times(self.solver, self.grid), like=self.x0)

    def weights_by_cell(self) -> list[list[BlockWeights]]:
        """The block's weights at the nodes of each cell, generated in one call for all cells.

        Raises:
            ValueError: for precomputed weights of another depth.
        """
        from odeformer.field.parts import by_cell

        weights, nodes, cells = self.source(*self.nodes()), len(self.solver.nodes), len(self.grid) - 1
        times = len(next(iter(weights.values())))
        if times != nodes * cells:
            raise ValueError(f"weights at {times} times were given, but {cells} cells need {nodes * cells}")
        return by_cell(weights, nodes)


class PassSizes(NamedTuple):
    """Sizes from which the memory of a forward and backward pass is computed."""

    state: int
    """Bytes of one state, [batch, tokens, width] in float32."""
    solver_state: int
    """Bytes of the tensors that the solver carries from cell to cell."""
    evaluation: int
    """Bytes that autograd saves for one evaluation of the field, including its state."""
    depth: int
    """Number of cells, including the prelude."""
    prelude: int
    """Number of cells of the prelude."""
    evaluations: int
    """Number of field evaluations per cell."""
    nodes: int
    """Number of times per cell at which the solver needs weights."""
    segment: int
    """Number of cells between two saved states, for ``checkpoint`` only."""


class PassMemory(NamedTuple):
    """Memory that a gradient method needs."""

    at_loss: int
    """Bytes of activations at the end of the forward pass."""
    in_backward: int
    """Peak bytes of activations during the backward pass."""
    times: int
    """Number of times t whose generated weights exist at once, without those of the prelude."""


class GradientModule(Protocol):
    """The functions that the module of a gradient method defines."""

    def solve(self, problem: Problem) -> Tensor:
        """The state at the grid's last edge, differentiable in ``x0`` and in the parameters behind W(t)."""
        ...

    def memory(self, sizes: PassSizes) -> PassMemory:
        """The memory that a forward and backward pass needs."""
        ...


@dataclass(frozen=True)
class GradientMethod:
    """A gradient method: its implementation and what it can be used with."""

    module: str
    """The module with ``solve`` and ``memory``, imported when the method is first used."""
    recomputed_passes: float
    """Number of additional forward passes through the cells in the backward pass."""
    is_exact: bool = True
    """Whether the result is the gradient of the discrete solve up to rounding."""
    regenerates_weights: bool = False
    """Whether W(t) is generated from the stored weights during both passes, for a few times t at once. Such a
    method cannot use precomputed weights, nor weights that ZeRO-3 releases after the forward pass."""
    solvers: type = object
    """The base class of the solvers that the method can be used with."""
    needs: str = ""
    """A description of these solvers, for error messages."""
    default_solver: str | None = None
    """The solver to use if none is chosen; None means the flavour's default."""

    def solve(self, problem: Problem) -> Tensor:
        """The solution of a problem, as :meth:`GradientModule.solve`."""
        return self._implementation.solve(problem)

    def memory(self, sizes: PassSizes) -> PassMemory:
        """The memory of a pass, as :meth:`GradientModule.memory`."""
        return self._implementation.memory(sizes)

    def goes_with(self, solver: Solver) -> bool:
        """Whether the method can be used with this solver."""
        return isinstance(solver, self.solvers)

    def able_solvers(self) -> str:
        """The kind of solver that the method needs, followed by the solvers' names."""
        names = ", ".join(name for name, solver in SOLVERS.items() if self.goes_with(solver))
        return f"{self.needs}: {names}"

    @property
    def _implementation(self) -> GradientModule:
        return cast(GradientModule, import_module(self.module))
