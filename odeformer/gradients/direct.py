"""Ordinary backpropagation through the solve: the activations of all cells are saved."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from odeformer.field.parts import BlockWeights
from odeformer.gradients.method import PassMemory, PassSizes, Problem
from odeformer.solvers import Cell, State


def solve(problem: Problem) -> Tensor:
    """The state at the end; the backward pass uses the saved activations."""
    start = problem.solver.start(problem.x0)
    return problem.solver.end(advance(problem, start, problem.cells, problem.weights_by_cell()))


def advance(
    problem: Problem, state: State, cells: Sequence[Cell], weights: Sequence[Sequence[BlockWeights]]
) -> State:
    """The solver's state after ``cells``, given the state before them and the weights at their nodes."""
    for cell, at_nodes in zip(cells, weights, strict=True):
        state = problem.solver.step(problem.field, state, cell, at_nodes)
    return state


def memory(sizes: PassSizes) -> PassMemory:
    """Memory of a pass: every evaluation of the field."""
    at_loss = sizes.depth * sizes.evaluations * sizes.evaluation
    return PassMemory(at_loss, sizes.evaluation, (sizes.depth - sizes.prelude) * sizes.nodes)
