"""A model's solve as a sequence of maps between states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from odeformer.depth import Grid
from odeformer.field import BlockWeights, Field, build_field
from odeformer.field.parts import by_cell
from odeformer.hypernetwork import time_tensors
from odeformer.lora import merge
from odeformer.model import Odeformer
from odeformer.solvers import SOLVERS, Cell, OneStep, Solver, cells_of, node_times

Step = Callable[[Tensor], Tensor]
"""A map of states."""
Along = Literal["own", "constant", "shuffled"]
"""The weights of the cells after the prelude: their own, the mean over all cells, or the cells' in random
order. The latter two are controls: what does not change with them does not depend on t."""


@dataclass(frozen=True)
class CellStep:
    """A solver's step over one cell, as a map of states [batch, tokens, width]."""

    solver: Solver
    field: Field
    cell: Cell
    weights: Sequence[BlockWeights]
    """The weights at each of the cell's nodes."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.solver.end(self.solver.step(self.field, self.solver.start(x), self.cell, self.weights))


class Flow(NamedTuple):
    """N maps, each from the state x(t_n) to x(t_{n+1})."""

    edges: Grid
    """The times of the states, from 0 to 1; the prelude's cells come first."""
    cell_maps: tuple[CellStep, ...]

    @property
    def widths(self) -> list[float]:
        """The cells' widths h in t."""
        return [after - before for before, after in pairwise(self.edges)]

    def end(self, x: Tensor) -> Tensor:
        """x(1) for the state x at t = 0."""
        for step in self.cell_maps:
            x = step(x)
        return x


def flow_of(
    model: Odeformer, length: int, depth: int | Grid | None = None, along: Along = "own", seed: int = 0
) -> Flow:
    """The solve of sequences of ``length`` tokens at N = ``depth``, without dropout.

    Reversible solvers have no maps of x alone: the flavour's own layers stand in for them, as at
    inference.

    Args:
        along: The weights of the cells.
        seed: The seed of the shuffled order.
    """
    solver = SOLVERS[flow_solver(model)]
    like = model.embedding.weight
    field = build_field(model.config, like.new_empty(1, length, model.config.width), training=False)
    steps: list[CellStep] = []
    prelude, rest = model.grids(depth)
    if len(prelude) > 1:
        steps += _steps(model, field, model.layer_solver(), prelude)
    steps += _steps(model, field, solver, rest, along, seed)
    return Flow((*prelude[:-1], *rest), tuple(steps))


def flow_solver(model: Odeformer) -> str:
    """The solver of :func:`flow_of`: the model's own, or that of its flavour's layers."""
    own = isinstance(SOLVERS.get(model.solver), OneStep)
    return model.solver if own else model.config.default_solver


def _steps(
    model: Odeformer, field: Field, solver: Solver, grid: Grid, along: Along = "own", seed: int = 0
) -> Iterator[CellStep]:
    with torch.no_grad():
        # Merged, because a projection with an adapter supports neither forward derivatives nor vmap.
        times = time_tensors(*node_times(solver, grid), like=model.embedding.weight)
        weights = merge(model.hypernetwork(*times))
        if along == "constant":
            weights = {name: w.mean(0, keepdim=True).expand_as(w) for name, w in weights.items()}
    blocks = by_cell(weights, len(solver.nodes))
    order = list(range(len(grid) - 1))
    if along == "shuffled":
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed)).tolist()
    for index, cell in zip(order, cells_of(grid, field.speed), strict=True):
        yield CellStep(solver, field, cell, blocks[index])


@torch.no_grad()
def states(steps: Sequence[Step], x: Tensor) -> Iterator[Tensor]:
    """Yield x and its images under the steps: N + 1 states."""
    yield x
    for step in steps:
        x = step(x)
        yield x


@contextmanager
def differentiable_attention() -> Iterator[None]:
    """Use unfused attention: fused kernels support neither forward derivatives nor vmap."""
    with sdpa_kernel(SDPBackend.MATH):
        yield
