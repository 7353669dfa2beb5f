"""The gradient of a reversible solve: states are recovered from the last one, so memory is constant in N.

The forward pass saves only the last state. The backward pass undoes each coupling (u, v) → (v, a·u + φ(v)),
and the one evaluation of φ that this takes is also differentiated, so a backward pass costs as much as with
per-cell checkpointing. In both passes, weights are generated for a few cells at a time; their gradient is
propagated to the hypernetwork's parameters right away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from odeformer.field.parts import BlockWeights, Field, by_cell
from odeformer.gradients.autocast import autocast_state
from odeformer.gradients.method import PassMemory, PassSizes, Problem
from odeformer.solvers import Cell, ReversibleSolver, seen_dtype

CELLS_AT_ONCE = 4
"""Number of cells whose weights exist at the same time."""


@dataclass(frozen=True)
class Solve:
    """The constants of a reversible solve."""

    field: Field
    hypernetwork: nn.Module
    solver: ReversibleSolver
    cells: Sequence[Cell]
    times: Tensor
    """The times t of all nodes of all cells, [cells · nodes]."""
    widths: Tensor
    """The cell width h of each of these nodes, [cells · nodes]."""

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.hypernetwork.parameters() if p.requires_grad]

    def chunks(self) -> list[range]:
        """The indices of the cells in chunks of ``CELLS_AT_ONCE``."""
        starts = range(0, len(self.cells), CELLS_AT_ONCE)
        return [range(start, min(start + CELLS_AT_ONCE, len(self.cells))) for start in starts]

    def weights(self, chunk: range) -> BlockWeights:
        """The block's tensors at all nodes of these cells, each [cells · nodes, ...]."""
        nodes = len(self.solver.nodes)
        part = slice(chunk.start * nodes, chunk.stop * nodes)
        generated: BlockWeights = self.hypernetwork(self.times[part], self.widths[part])
        return generated


def solve(problem: Problem) -> Tensor:
    """The state at the end; the backward pass recovers the states before it."""
    solver, hypernetwork = problem.solver, problem.source
    assert isinstance(solver, ReversibleSolver)
    assert isinstance(hypernetwork, nn.Module)
    whole = Solve(problem.field, hypernetwork, solver, problem.cells, *problem.nodes())
    x: Tensor = _ReversibleSolve.apply(whole, problem.x0, *whole.parameters())
    return x


def memory(sizes: PassSizes) -> PassMemory:
    """Memory of a pass: prelude and one state; in the backward pass prelude, three states, one evaluation."""
    prelude = sizes.prelude * sizes.evaluation
    cells = min(sizes.depth - sizes.prelude, CELLS_AT_ONCE)
    return PassMemory(
        prelude + sizes.solver_state,
        prelude + 3 * sizes.solver_state + sizes.evaluation,
        cells * sizes.nodes,
    )


class _ReversibleSolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, solve: Solve, x0: Tensor, *parameters: Tensor) -> Tensor:
        state = solve.solver.start(x0)
        for chunk in solve.chunks():
            by_cells = by_cell(solve.weights(chunk), len(solve.solver.nodes))
            for index, blocks in zip(chunk, by_cells, strict=True):
                state = solve.solver.step(solve.field, state, solve.cells[index], blocks)
        ctx.solve = solve
        ctx.save_for_backward(*state)
        ctx.autocast = autocast_state(x0.device.type)
        return solve.solver.end(state).to(x0.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        solve: Solve = ctx.solve
        u, v, *kept = ctx.saved_tensors
        # The solution x is v; the loss does not depend on u.
        grad_u, grad_v = torch.zeros_like(u), outputs[0].to(u.dtype)
        parameters = solve.parameters()
        totals: list[Tensor | None] = [None] * len(parameters)

        with torch.autocast(**ctx.autocast):
            for chunk in reversed(solve.chunks()):
                with torch.enable_grad():
                    generated = solve.weights(chunk)
                leaves = {
                    name: [w.requires_grad_(stacked.requires_grad) for w in stacked.detach().unbind(0)]
                    for name, stacked in generated.items()
                }
                blocks = by_cell(leaves, len(solve.solver.nodes))
                for index, at_nodes in zip(reversed(chunk), reversed(blocks), strict=True):
                    couplings = solve.solver.couplings(solve.field, solve.cells[index], at_nodes)
                    for factor, update in reversed(couplings):
                        scaled, v, grad_u, grad_v = _undo(factor, update, u, v, grad_u, grad_v, at_nodes)
                        u, kept = solve.solver.unscale(factor, scaled, tuple(kept))
                _accumulate(totals, generated, leaves, parameters)

        # Both values of the pair started as x0.
        return None, (grad_u + grad_v).to(outputs[0].dtype), *totals


# Undoing needs φ(v), and the gradient needs the graph of φ at v: one evaluation serves both. v is a detached
# leaf, so the graph lives for this coupling only and memory is constant in N. By the chain rule of the
# outputs v and a·u + φ(v), the gradient of u is a · grad_after, and that of v is grad_v + grad_after · φ'(v).
def _undo(
    factor: float,
    update: Callable[[Tensor], Tensor],
    v: Tensor,
    after: Tensor,
    grad_v: Tensor,
    grad_after: Tensor,
    blocks: list[BlockWeights],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Undo and differentiate the coupling (u, v) → (v, after = factor · u + update(v)), given its outputs.

    Returns factor · u, v, and the gradients of u and v; that of the weights is added to their ``grad``.
    """
    leaf = v.detach().to(seen_dtype(blocks)).requires_grad_()
    weights = [w for block in blocks for w in block.values() if w.requires_grad]
    with torch.enable_grad():
        added = update(leaf)
    slope, *of_weights = torch.autograd.grad(
        added, [leaf, *weights], grad_after.to(added.dtype), allow_unused=True
    )
    for weight, grad in zip(weights, of_weights, strict=True):
        if grad is not None:
            weight.grad = grad if weight.grad is None else weight.grad + grad
    return after - added.detach(), v, factor * grad_after, grad_v + slope


def _accumulate(
    totals: list[Tensor | None],
    generated: BlockWeights,
    leaves: dict[str, list[Tensor]],
    parameters: list[nn.Parameter],
) -> None:
    """Propagate the gradients of generated weights to the parameters, and add them to ``totals``."""
    # Under an adapter the frozen weights have no gradient.
    trained = [name for name, stacked in generated.items() if stacked.requires_grad]
    if not trained:
        return
    grads = torch.autograd.grad(
        [generated[name] for name in trained],
        parameters,
        [
            torch.stack([torch.zeros_like(w) if w.grad is None else w.grad for w in leaves[name]])
            for name in trained
        ],
        allow_unused=True,
    )
    for i, grad in enumerate(grads):
        if grad is not None:
            total = totals[i]
            totals[i] = grad if total is None else total + grad
