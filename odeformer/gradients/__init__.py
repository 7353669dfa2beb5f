"""Integration, and the gradient methods: how the backward pass gets the states of the solve.

``direct`` keeps everything every cell computed. ``checkpoint`` keeps only the state between cells, or
every few cells, and computes them again in the backward pass: the same gradient, bit for bit, for a third
more time. ``reversible`` keeps only the last state, and needs a solver that can undo its steps.
``adjoint`` also keeps only the last state and solves backwards, with any solver: not the gradient of the
discrete solve, but an approximation whose error falls as the cells get smaller.
"""

from __future__ import annotations

from odeformer.gradients.integrate import GRADIENTS, Solution, integrate, time_tensors

__all__ = ["GRADIENTS", "Solution", "integrate", "time_tensors"]
