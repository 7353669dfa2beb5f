"""The continuous adjoint (Chen et al. 2018, arXiv 1806.07366), as torchdiffeq implements it.

The forward pass saves only the last state. The backward pass solves x and its adjoint from t = 1 back to 0
with the same solver. This discretizes the gradient of the exact flow, so in any dtype it differs from the
gradient of the discrete solve by the solver's truncation error. ``odeformer grad-check`` measures the
difference for a given model.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torchdiffeq import odeint_adjoint
from torchdiffeq._impl.odeint import SOLVERS as METHODS
from torchdiffeq._impl.solvers import FixedGridODESolver

from odeformer.field.parts import Field
from odeformer.gradients.autocast import autocast_state
from odeformer.gradients.method import PassMemory, PassSizes, Problem
from odeformer.hypernetwork import WeightSource
from odeformer.solvers import RungeKutta, add_scaled

FEW_CELLS = 12
"""Number of cells below which the gradient is so inaccurate that :func:`solve` warns."""


class Tableau(FixedGridODESolver):
    """A :class:`RungeKutta` solver as a torchdiffeq method that makes the same steps."""

    order = 1  # order of the interpolation between grid points, which is not used

    def __init__(self, func: Any, y0: Tensor, tableau: RungeKutta, **options: Any) -> None:
        super().__init__(func, y0, **options)
        self.tableau = tableau

    def _step_func(self, func: Any, t0: Tensor, dt: Tensor, t1: Tensor, y0: Tensor) -> tuple[Tensor, Tensor]:
        slopes: list[Tensor] = []
        for node, row in zip(self.tableau.at, self.tableau.a, strict=True):
            slopes.append(func(t0 + self.tableau.nodes[node] * dt, add_scaled(y0, dt, row, slopes)))
        return add_scaled(torch.zeros_like(y0), dt, self.tableau.b, slopes), slopes[0]


# torchdiffeq accepts methods only by name.
METHODS["tableau"] = Tableau


class RightHandSide:
    """The function dx/dt = speed · field(x; W(t)) of (t, x), which generates W(t) at every call."""

    def __init__(self, field: Field, hypernetwork: WeightSource, x0: Tensor) -> None:
        self.field, self.hypernetwork = field, hypernetwork
        self.h = torch.zeros(())
        """The width of the cell that is being solved, which the published coefficients use."""
        self.autocast = autocast_state(x0.device.type)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        # Never bfloat16: its spacing near 1 is wider than a cell of a deep solve.
        at = t.reshape(1).to(torch.float64 if x.dtype == torch.float64 else torch.float32)
        with torch.autocast(**self.autocast):
            weights = self.hypernetwork(at, self.h.to(at).reshape(1))
            slope = self.field(x, {name: stacked[0] for name, stacked in weights.items()})
        return (self.field.speed * slope).to(x.dtype)

    def callback_step(self, t0: Tensor, x: Tensor, dt: Tensor) -> None:
        """Store the cell width; torchdiffeq calls this before each step."""
        self.h = dt

    callback_step_adjoint = callback_step


def solve(problem: Problem) -> Tensor:
    """The state at the end, with a gradient by the continuous adjoint.

    Warns:
        UserWarning: for a one-stage solver or fewer than 12 cells, where the error is several percent.
    """
    x0, solver, hypernetwork, cells = problem.x0, problem.solver, problem.source, len(problem.grid) - 1
    assert isinstance(solver, RungeKutta)
    assert isinstance(hypernetwork, nn.Module)
    if len(solver.b) == 1 or cells < FEW_CELLS:
        warnings.warn(
            "gradient 'adjoint' is an approximation, off by several percent with a first-order solver or "
            f"fewer than {FEW_CELLS} cells; 'checkpoint' is exact",
            stacklevel=4,
        )
    edges = torch.tensor(problem.grid, dtype=x0.dtype, device=x0.device)

    def both_ways(func: Any, y0: Tensor, t: Tensor) -> Tensor:
        return edges if t[0] < t[-1] else edges.flip(0)

    path = odeint_adjoint(
        RightHandSide(problem.field, hypernetwork, x0),
        x0,
        edges[[0, -1]],
        method="tableau",
        options={"tableau": solver, "grid_constructor": both_ways},
        adjoint_params=tuple(hypernetwork.parameters()),
    )
    end: Tensor = path[-1]
    return end


def memory(sizes: PassSizes) -> PassMemory:
    """Memory of a pass: prelude and one state; in the backward pass prelude, six states, one evaluation."""
    prelude = sizes.prelude * sizes.evaluation
    return PassMemory(prelude + sizes.state, prelude + 6 * sizes.state + sizes.evaluation, 1)
