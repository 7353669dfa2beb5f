"""Gradient methods: how the backward pass of a solve gets its states.

``direct`` keeps everything that every cell computed. ``checkpoint`` keeps the state between cells, or every
few cells, and computes the cells again in the backward pass: the same gradient, bit for bit, for a third more
time. ``reversible`` keeps the last state alone, and needs a solver that can undo its steps. ``adjoint`` also
keeps the last state alone and solves backwards, with any Runge–Kutta solver: not the gradient of the discrete
solve, but an approximation whose error falls as the cells get smaller.

To add one, write a module with ``solve`` and ``memory`` (see :mod:`odeformer.gradients.direct`) and give it
an entry in ``GRADIENTS``. Nothing here imports torch: settings are checked before it is needed.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from odeformer.gradients.method import GradientMethod
from odeformer.solvers import MEMORY_SAVING, ReversibleSolver, RungeKutta

GRADIENTS: dict[str, GradientMethod] = {
    "checkpoint": GradientMethod("odeformer.gradients.checkpoint", recomputed_passes=1.0),
    "direct": GradientMethod("odeformer.gradients.direct", recomputed_passes=0.0),
    "reversible": GradientMethod(
        "odeformer.gradients.reversible",
        recomputed_passes=1.0,
        regenerates_weights=True,
        solvers=ReversibleSolver,
        needs="a solver that can be undone",
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
    """The gradient method of that name.

    Raises:
        ValueError: naming the methods there are.
    """
    if name not in GRADIENTS:
        raise ValueError(f"gradient {name!r} is unknown; there are: {', '.join(GRADIENTS)}")
    return GRADIENTS[name]


def _known(name: str) -> str:
    gradient_named(name)
    return name


GradientName = Annotated[str, AfterValidator(_known)]
"""A key of ``GRADIENTS``, as settings have it."""

__all__ = ["GRADIENTS", "GradientMethod", "GradientName", "gradient_named"]
