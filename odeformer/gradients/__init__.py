"""Gradient methods: how the backward pass of a solve obtains the intermediate states.

- ``direct`` saves all activations of all cells: ordinary backpropagation.
- ``checkpoint`` saves only the state between cells, or every few cells, and recomputes the cells in the
  backward pass: the same gradient, bit for bit, for a third more time.
- ``reversible`` saves only the last state and recovers the others, with a solver that can undo its steps.
- ``adjoint`` saves only the last state and solves the ODE backwards, with any Runge–Kutta solver. The result
  approximates the gradient of the discrete solve, with an error that falls as the cells get smaller.

To add a method, write a module with ``solve`` and ``memory`` (see :mod:`odeformer.gradients.direct`) and give
it an entry in ``GRADIENTS``. This module does not import torch, so that settings can be checked without it.
"""

from __future__ import annotations

from typing import Annotated

from odeformer.gradients.method import GradientMethod
from odeformer.section import known, look_up
from odeformer.solvers import MEMORY_SAVING, ReversibleSolver, RungeKutta

GRADIENTS: dict[str, GradientMethod] = {
    "checkpoint": GradientMethod("odeformer.gradients.checkpoint", recomputed_passes=1.0),
    "direct": GradientMethod("odeformer.gradients.direct", recomputed_passes=0.0),
    "reversible": GradientMethod(
        "odeformer.gradients.reversible",
        recomputed_passes=1.0,
        regenerates_weights=True,
        solvers=ReversibleSolver,
        needs="a reversible solver",
        default_solver=MEMORY_SAVING,
    ),
    "adjoint": GradientMethod(
        "odeformer.gradients.adjoint",
        recomputed_passes=1.0,
        is_exact=False,
        regenerates_weights=True,
        solvers=RungeKutta,
        needs="a Runge–Kutta solver",
    ),
}


def gradient_named(name: str) -> GradientMethod:
    """The gradient method of that name, see :func:`odeformer.section.look_up`."""
    return look_up("gradient", name, GRADIENTS)


GradientName = Annotated[str, known(gradient_named)]
"""The type of settings that hold a key of ``GRADIENTS``."""

__all__ = ["GRADIENTS", "GradientMethod", "GradientName", "gradient_named"]
