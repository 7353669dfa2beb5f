"""Activation checkpointing (Chen et al. 2016, arXiv 1604.06174): one state is saved per segment of cells."""

from __future__ import annotations

import math

from torch import Tensor
from torch.utils.checkpoint import checkpoint

from odeformer.gradients.direct import advance
from odeformer.gradients.method import PassMemory, PassSizes, Problem
from odeformer.solvers import State


def solve(problem: Problem) -> Tensor:
    """The state at the end; the backward pass recomputes the cells, one segment at a time."""
    cells, weights = problem.cells, problem.weights_by_cell()

    def advance_segment(state: State, part: slice) -> State:
        return advance(problem, state, cells[part], weights[part])

    state = problem.solver.start(problem.x0)
    for first in range(0, len(cells), problem.segment):
        part = slice(first, first + problem.segment)
        state = checkpoint(advance_segment, state, part, use_reentrant=False)
    return problem.solver.end(state)


def memory(sizes: PassSizes) -> PassMemory:
    """Memory of a pass: one state per segment, and in the backward pass the evaluations of one segment."""
    states = math.ceil(sizes.depth / sizes.segment) * sizes.solver_state
    again = sizes.segment * sizes.evaluations * sizes.evaluation
    return PassMemory(states, states + again, (sizes.depth - sizes.prelude) * sizes.nodes)
