"""Accuracy, memory and time of solvers and gradient methods on one model and batch."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odeformer.field.parts import by_cell
from odeformer.gradients import GRADIENTS
from odeformer.hypernetwork import time_tensors
from odeformer.measure.cost import seconds_in_turn
from odeformer.measure.memory import peak_bytes, saved_bytes
from odeformer.model import Odeformer, SolveOptions, token_losses
from odeformer.solvers import ReversibleSolver, cells_of, node_times, solver_named

Pair = tuple[str, str]
"""Names of a solver and of a gradient method."""


@dataclass(frozen=True)
class GradientRow:
    """Accuracy, memory and time of a solver and gradient method at one depth, in one precision."""

    solver: str
    gradient: str
    depth: int
    dtype: str
    grad_rel_error: float
    """Relative error (2-norm) of the gradient of all parameters, compared with ``direct`` for the same solver
    in the same precision."""
    direct_error: float
    """Relative error of the ``direct`` gradient, compared with float64."""
    saved_bytes: int
    """Tensor bytes alive after the forward pass."""
    peak_bytes: int
    """Peak tensor bytes during forward and backward pass."""
    seconds: float
    """Median time of forward and backward pass."""
    seconds_vs_direct: float
    """Ratio of ``seconds`` to that of ``direct`` with the same solver."""
    state_drift: float | None
    """Relative error of the flow's initial state after undoing the solve, 0 if every bit is recovered; None
    for solvers that are not reversible."""


def pairs_of(solver: str) -> list[Pair]:
    """The solver with every gradient method that it can be used with."""
    return [(solver, name) for name, method in GRADIENTS.items() if method.goes_with(solver_named(solver))]


def check_gradients(
    model: Odeformer, ids: Tensor, depth: int, dtype: str, pairs: Sequence[Pair], rounds: int = 3
) -> list[GradientRow]:
    """Measure pairs of solver and gradient method.

    Args:
        model: the model; its gradients are overwritten.
        ids: token ids [batch, tokens + 1].
        depth: N.
        dtype: ``fp32``, or ``bf16`` for autocast to bfloat16.
        pairs: the pairs, which must include each solver's ``direct``. They are timed in turn.
        rounds: number of measurements per pair, after one for warming up.
    """
    gradients: dict[Pair, Tensor] = {}

    def run(pair: Pair) -> None:
        gradients[pair] = _gradient(model, ids, depth, *pair, dtype)

    seconds = seconds_in_turn(pairs, run, rounds)
    exact = copy.deepcopy(model).double()
    references = {
        solver: _gradient(exact, ids, depth, solver, "direct", "fp64")
        for solver in dict.fromkeys(solver for solver, _ in pairs)
    }
    rows = []
    for solver, gradient in pairs:
        own, direct = gradients[solver, gradient], gradients[solver, "direct"]

        def forward(solver: str = solver, gradient: str = gradient) -> Tensor:
            return _loss(model, ids, depth, solver, gradient, dtype)

        model.zero_grad()
        rows.append(
            GradientRow(
                solver=solver,
                gradient=gradient,
                depth=depth,
                dtype=dtype,
                grad_rel_error=_distance(own, direct),
                direct_error=_distance(direct, references[solver]),
                saved_bytes=saved_bytes(forward, ids.device),
                peak_bytes=peak_bytes(lambda: forward().backward(), ids.device),
                seconds=statistics.median(seconds[solver, gradient]),
                seconds_vs_direct=statistics.median(seconds[solver, gradient])
                / statistics.median(seconds[solver, "direct"]),
                state_drift=state_drift(model, ids, depth, solver, dtype),
            )
        )
    return rows


def _loss(model: Odeformer, ids: Tensor, depth: int, solver: str, gradient: str, dtype: str) -> Tensor:
    options = SolveOptions(solver, gradient)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bf16"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the adjoint's inaccuracy is measured here
        logits = model(ids[:, :-1], depth=depth, options=options).logits
        return token_losses(logits, ids[:, 1:]).mean()


def _gradient(model: Odeformer, ids: Tensor, depth: int, solver: str, gradient: str, dtype: str) -> Tensor:
    """The gradient of all parameters as one vector."""
    model.zero_grad()
    _loss(model, ids, depth, solver, gradient, dtype).backward()
    if ids.device.type == "cuda":
        torch.cuda.synchronize(ids.device)
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def _distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).norm() / expected.double().norm())


@torch.no_grad()
def state_drift(model: Odeformer, ids: Tensor, depth: int, solver_name: str, dtype: str) -> float | None:
    """Relative error of the flow's initial state after solving and undoing; None if that is not possible."""
    solver = solver_named(solver_name)
    if not isinstance(solver, ReversibleSolver):
        return None
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        x0, field = model.flow_start(ids[:, :-1], options=SolveOptions(solver_name))
        _, flow = model.grids(depth)
        cells = cells_of(flow, field.speed)
        times = time_tensors(*node_times(solver, flow), like=x0)
        weights = by_cell(model.hypernetwork(*times), len(solver.nodes))
        state = first = solver.start(x0)
        for cell, at_nodes in zip(cells, weights, strict=True):
            state = solver.step(field, state, cell, at_nodes)
        for cell, at_nodes in zip(reversed(cells), reversed(weights), strict=True):
            state = solver.reverse(field, state, cell, at_nodes)
    return _distance(torch.stack(state[:2]), torch.stack(first[:2]))
