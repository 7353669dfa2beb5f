"""What a gradient method is, and what it is given to solve."""

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
    """dx/dt = speed · field(x; W(t)), to be solved from the grid's first edge to its last."""

    field: Field
    source: WeightSource
    """Gives W(t)."""
    x0: Tensor
    """The state at the start, [batch, tokens, width]."""
    grid: Grid
    """The edges of the cells."""
    solver: Solver
    segment: int
    """The cells that ``checkpoint`` computes again together."""

    @property
    def cells(self) -> list[Cell]:
        return cells_of(self.grid, self.field.speed)

    def nodes(self) -> tuple[Tensor, Tensor]:
        """The times at which the solver needs weights, and the widths of their cells: each [M]."""
        from odeformer.hypernetwork import time_tensors

        return time_tensors(*node_times(self.solver, self.grid), like=self.x0)

    def weights_by_cell(self) -> list[list[BlockWeights]]:
        """For each cell the block's tensors at its nodes, all generated in one call.

        Raises:
            ValueError: for weights that were generated for another depth.
        """
        from odeformer.field.parts import by_cell

        weights, nodes, cells = self.source(*self.nodes()), len(self.solver.nodes), len(self.grid) - 1
        times = len(next(iter(weights.values())))
        if times != nodes * cells:
            raise ValueError(f"weights at {times} times were given; a depth of {cells} needs {nodes} a cell")
        return by_cell(weights, nodes)


class PassSizes(NamedTuple):
    """What a backward pass may keep, in bytes, and of how many."""

    state: int
    """One state, [batch, tokens, width] in float32."""
    solver_state: int
    """What the solver carries from cell to cell."""
    evaluation: int
    """What one evaluation of the field keeps, its state included."""
    depth: int
    """Cells, those of the prelude included."""
    prelude: int
    """Cells of the prelude."""
    evaluations: int
    """Evaluations of the field in a cell."""
    nodes: int
    """Times in a cell at which the solver needs weights."""
    segment: int


class PassMemory(NamedTuple):
    """What a gradient method keeps."""

    at_loss: int
    """Bytes of activations at the end of the forward pass."""
    in_backward: int
    """The most bytes of activations during the backward pass."""
    times: int
    """Times t whose generated weights exist at once, without those of the prelude."""


class GradientModule(Protocol):
    """What the module of a gradient method defines."""

    def solve(self, problem: Problem) -> Tensor:
        """The state at the grid's last edge, differentiable in ``x0`` and in what W(t) is made of."""
        ...

    def memory(self, sizes: PassSizes) -> PassMemory:
        """What the method keeps of a pass."""
        ...


@dataclass(frozen=True)
class GradientMethod:
    """An entry of ``GRADIENTS``."""

    module: str
    """The module with ``solve`` and ``memory``, imported when the method is first used."""
    recomputed_passes: float
    """Forward passes through the cells that are made once more in the backward pass."""
    is_exact: bool = True
    """Whether it gives the gradient of the discrete solve, up to rounding."""
    regenerates_weights: bool = False
    """Generate W(t) from the stored weights in both passes, a few times t at once, instead of all of them
    before: with weights that are given, or that ZeRO-3 has released by then, the method cannot be used."""
    solvers: type = object
    """The kind of solver that the method goes with."""
    needs: str = ""
    """That kind, for a message."""
    default_solver: str | None = None
    """The solver where none is chosen; the flavour's own when None."""

    def solve(self, problem: Problem) -> Tensor:
        """See :class:`GradientModule`."""
        return self._implementation.solve(problem)

    def memory(self, sizes: PassSizes) -> PassMemory:
        """See :class:`GradientModule`."""
        return self._implementation.memory(sizes)

    def goes_with(self, solver: Solver) -> bool:
        """Whether the method can be used with this solver."""
        return isinstance(solver, self.solvers)

    def able_solvers(self) -> str:
        """What the method needs of a solver, and the names of those that have it."""
        names = ", ".join(name for name, solver in SOLVERS.items() if self.goes_with(solver))
        return f"{self.needs}: {names}"

    @property
    def _implementation(self) -> GradientModule:
        return cast(GradientModule, import_module(self.module))
